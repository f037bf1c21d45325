"""The rules of selection: what they are, what they would do, and their edit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from starlette.exceptions import HTTPException

from dicom_node.configuration import Change
from dicom_node.console.access import ADMIN, record, require_admin
from dicom_node.console.context import console_of
from dicom_node.console.registry import Page
from dicom_node.console.rendering import go_to, render
from dicom_node.console.rule_form import FIELDS, RuleForm
from dicom_node.errors import ConfigurationError
from dicom_node.rule_trial import Trial, try_rules
from dicom_node.rules_document import RulesDocument, rule_from
from dicom_node.selection.rules import action_in_words, conditions_in_words
from dicom_node.settings import Rule

__all__ = ["PAGE"]

router = APIRouter()
PAGE = Page(router, title="Rules", path="/rules", order=30)

_LAST = (20, 50, 200, 1000)
Last = Annotated[int, Query(ge=1, le=_LAST[-1])]


@router.get("/rules")
def show(request: Request, last: Last = _LAST[0]) -> Response:
    """Show the rules in order, and what they would do with the last series."""
    return _list(request, last)


@router.get("/rules/edit", dependencies=[ADMIN])
def edit(request: Request, name: str = "") -> Response:
    """Show the form of a rule, a new one without `name`."""
    if not name:
        return _form(request, RuleForm(), "")
    found = [rule for rule in _rules(request) if rule.name == name]
    if not found:
        raise HTTPException(404, "There is no such rule.")
    return _form(request, RuleForm.of(found[0]), name)


async def _entered(request: Request) -> RuleForm:
    sent = await request.form()
    return RuleForm({name: str(value) for name, value in sent.items()})


@router.post("/rules/edit", dependencies=[ADMIN])
def save(request: Request, entered: Annotated[RuleForm, Depends(_entered)]) -> Response:
    """Save a rule, or only try it on the last series."""
    was, seen = entered.values.get("was", ""), entered.values.get("seen", "")
    try:
        rule = rule_from(entered.fields())
        if entered.values.get("do") != "save":
            last = entered.last(_LAST[-1])
            tried = _with(_rules(request), was, rule)
            return _form(request, entered, was, tried=tried, last=last)
        words = f"rule {was} changed" if was else f"rule {rule.name} added"
        document, change = _document(request), _change(request, words)
        if was:
            document.replace(was, rule, change, seen=seen)
        else:
            document.add(rule, change, seen=seen)
    except ConfigurationError as error:
        return _form(request, entered, was, words=str(error))
    record(request, f"configuration: {words}")
    return go_to(request, "/rules", said=f"{words.capitalize()}. It holds for the next series.")


@router.post("/rules/move", dependencies=[ADMIN])
def move(
    request: Request,
    name: Annotated[str, Form()],
    places: Annotated[int, Form(ge=-1000, le=1000)],
    seen: Annotated[str, Form()] = "",
) -> Response:
    """Have a rule asked earlier or later."""
    words = f"rule {name} moved {'up' if places < 0 else 'down'}"
    change = _change(request, words)
    return _changed(
        request, words, lambda: _document(request).move(name, places, change, seen=seen)
    )


@router.post("/rules/remove", dependencies=[ADMIN])
def remove(
    request: Request, name: Annotated[str, Form()], seen: Annotated[str, Form()] = ""
) -> Response:
    """Remove a rule."""
    words = f"rule {name} removed"
    change = _change(request, words)
    return _changed(request, words, lambda: _document(request).remove(name, change, seen=seen))


def _changed(request: Request, words: str, make: Any) -> Response:
    try:
        make()
    except ConfigurationError as error:
        return _list(request, _LAST[0], words=str(error))
    record(request, f"configuration: {words}")
    return go_to(request, "/rules", said=f"{words.capitalize()}.")


def _list(request: Request, last: int, words: str = "") -> Response:
    console = console_of(request)
    rules = _rules(request)
    trials = try_rules(console.ledger, console.settings(), last, rules)
    return render(
        request,
        "rules.html",
        status_code=422 if words else 200,
        rules=[(rule, conditions_in_words(rule), action_in_words(rule)) for rule in rules],
        seen=_seen(request),
        words=words,
        error=console.settings.error,
        **_shown(trials, last),
    )


def _form(
    request: Request,
    entered: RuleForm,
    was: str,
    *,
    words: str = "",
    tried: Sequence[Rule] | None = None,
    last: int = _LAST[0],
) -> Response:
    console = console_of(request)
    settings = console.settings()
    trials = None if tried is None else try_rules(console.ledger, settings, last, tried)
    return render(
        request,
        "rule.html",
        status_code=422 if words else 200,
        fields=FIELDS,
        entered=entered,
        was=was,
        seen=entered.values.get("seen") or _seen(request),
        words=words,
        peers=settings.peers,
        is_tried=trials is not None,
        **_shown(trials or [], last),
    )


def _shown(trials: list[Trial], last: int) -> Mapping[str, Any]:
    return {
        "trials": [(trial, action_in_words(trial.judgement.rule)) for trial in trials],
        "counted": Counter(trial.judgement.rule.name for trial in trials),
        "last": last,
        "choices": _LAST,
    }


def _rules(request: Request) -> tuple[Rule, ...]:
    """Return the rules as the document says now; those in force where it does not load."""
    console = console_of(request)
    if console.settings.path is None:
        return console.settings().rules
    try:
        return RulesDocument(console.settings.path).rules()
    except ConfigurationError:
        return console.settings().rules


def _document(request: Request) -> RulesDocument:
    path = console_of(request).settings.path
    if path is None:
        raise ConfigurationError("the node runs without a configuration document; make one first")
    return RulesDocument(path)


def _seen(request: Request) -> str:
    path = console_of(request).settings.path
    return "" if path is None else RulesDocument(path).digest()


def _change(request: Request, words: str) -> Change:
    return Change(require_admin(request).name, "console", words)


def _with(rules: Sequence[Rule], was: str, rule: Rule) -> list[Rule]:
    """Return `rules` with `rule` in the place of the one called `was`, else behind them."""
    if all(item.name != was for item in rules):
        return [*rules, rule]
    return [rule if item.name == was else item for item in rules]
