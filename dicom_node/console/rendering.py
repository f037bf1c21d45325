"""Templates and what stands in them: times, durations, sizes, in words for people."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from dicom_node import __version__
from dicom_node.console.access import csrf_token, keep_browser_token, visitor_of
from dicom_node.console.context import console_of
from dicom_node.console.reading import predicted
from dicom_node.console.words import (
    PART_WORDS,
    stage_words,
    state_tone,
    state_words,
)
from dicom_node.status_words import in_words

__all__ = ["STATIC", "go_to", "is_fragment", "make_templates", "render"]

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_SAID = "m3lung_said"
_ABSOLUTE = ("https://", "http://", "mailto:")
_THEMES = ("light", "dark")


def make_templates(base: str) -> Environment:
    """Return the environment of all templates; `base` stands before every path."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        base=base,
        version=__version__,
        asset=lambda name: f"{base}/static/{name}?v={_digest(name)}",
        now=time.time,
        part_words=PART_WORDS,
    )
    environment.filters.update(
        moment=moment,
        ago=ago,
        duration=duration,
        bytes=size,
        markdown=markdown,
        in_words=in_words,  # with the hour of the day: see `app`
        predicted=predicted,
        stage_words=stage_words,
        state_words=state_words,
        state_tone=state_tone,
    )
    return environment


def render(
    request: Request, template: str, *, status_code: int = 200, **values: object
) -> Response:
    """Return a page; it is told who is asking, where it is, and what was said last."""
    console = console_of(request)
    visitor = visitor_of(request)
    token = csrf_token(request)
    said = unquote(request.cookies.get(_SAID, ""))
    theme = request.cookies.get("m3lung_theme", "")
    settings = console.settings()
    is_admin = visitor is not None and visitor.is_admin
    shown = [page for page in console.pages if page.title and (is_admin or not page.admin)]
    text = console.templates.get_template(template).render(
        visitor=visitor,
        is_admin=is_admin,
        csrf=token,
        csrf_field=Markup('<input type="hidden" name="csrf" value="{}">').format(token),
        path=request.url.path.removeprefix(console.base) or "/",
        pages=shown if visitor else [],
        theme=theme if theme in _THEMES else "",
        said=said,
        ae_title=settings.ae_title,
        banner=settings.results.banner,
        **values,
    )
    response = HTMLResponse(text, status_code=status_code)
    if said and not is_fragment(request):
        response.delete_cookie(_SAID, path=console.base or "/")
    keep_browser_token(request, response)
    return response


def go_to(request: Request, path: str, *, said: str = "") -> Response:
    """Return "see other" to `path` below the base; `said` is shown there, without patient data."""
    console = console_of(request)
    response = RedirectResponse(f"{console.base}{path}", status_code=303)
    if said:
        response.set_cookie(
            _SAID, quote(said), max_age=60, path=console.base or "/", httponly=True, samesite="lax"
        )
    return response


def is_fragment(request: Request) -> bool:
    """Whether HTMX asks for a part of the page it is on."""
    return "hx-request" in request.headers


@lru_cache(maxsize=32)
def _digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


# -- filters ---------------------------------------------------------------------------------------


def moment(seconds: float | None, form: str = "short") -> Markup | str:
    """Return a time of the node's clock as ``<time>``; the full one shows on hovering."""
    if seconds is None:
        return "–"
    there = datetime.fromtimestamp(seconds, UTC).astimezone()
    if form == "clock":
        words = there.strftime("%H:%M:%S")
    elif there.date() == datetime.now(UTC).astimezone().date():
        words = f"{there:%H:%M:%S}"
    else:
        words = f"{there.day} {there:%b %Y %H:%M}" if form == "short" else f"{there:%c}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        there.isoformat(timespec="seconds"), f"{there:%Y-%m-%d %H:%M:%S %Z}", words
    )


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units: ``48 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def ago(seconds: float | None) -> str:
    """Return how long ago that was."""
    return "never" if seconds is None else f"{duration(time.time() - seconds)} ago"


def size(count: float) -> str:
    """Return a size in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def markdown(text: str) -> Markup:
    """Return Markdown as HTML; HTML in it stays text, and only harmless links are links.

    Of a relative link, to a file beside the text that the console does not have, the words stay.
    """
    # "js-default" renders neither raw HTML nor javascript: links; images would come from elsewhere.
    parser = MarkdownIt("js-default").disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        # Columns are aligned by a class: the browser is told to take no inline style.
        style = str(token.attrs.pop("style", ""))
        if style.startswith("text-align:"):
            token.attrs["class"] = f"to-{style.removeprefix('text-align:')}"
        if token.type == "table_open":
            token.attrs["tabindex"] = "0"  # a wide one scrolls, by the keyboard too
        token.children = _without_relative_links(token.children or [])
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704


def _without_relative_links(tokens: list[Token]) -> list[Token]:
    kept: list[Token] = []
    is_dropped = False  # links do not nest
    for token in tokens:
        if token.type == "link_open":
            address = str(token.attrs.get("href", ""))
            is_dropped = not address.startswith(_ABSOLUTE)
        if not (is_dropped and token.type in ("link_open", "link_close")):
            kept.append(token)
    return kept
