"""The pages, one module each.

A module makes a router, its routes, and says what it is::

    router = APIRouter()

    @router.get("/rules")
    def show(request: Request) -> Response:
        return render(request, "rules.html", rules=console_of(request).settings().rules)

    @router.post("/rules", dependencies=[ADMIN])
    def change(request: Request, text: Annotated[str, Form()]) -> Response:
        ...
        record(request, "rules changed")
        return go_to(request, "/rules", said="The rules are in force.")

    PAGE = Page(router, title="Rules", path="/rules", order=30)

That is all: it is found, put into the navigation and guarded. Whoever is not logged in is sent to
the login page, every form is checked for its token (``{{ csrf_field }}`` in the template), and
``ADMIN`` refuses viewers. Templates may use ``visitor``, ``is_admin``, ``base`` and the filters of
:mod:`dicom_node.console.rendering`. Neither scripts nor styles may stand in a template.
"""
