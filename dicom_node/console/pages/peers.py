"""Destinations and sources: who may send, who gets what, and whether they can be reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from pydicom.uid import UID
from starlette.exceptions import HTTPException

from dicom_node.audit.message import EventType
from dicom_node.configuration import Change
from dicom_node.console.access import ADMIN, record
from dicom_node.console.configuration import change_of, document_of, document_state
from dicom_node.console.context import console_of
from dicom_node.console.peer_form import PeerForm
from dicom_node.console.registry import Page
from dicom_node.console.rendering import go_to, is_fragment, render
from dicom_node.console.trials import TooManyTrials
from dicom_node.console.words import KIND_WORDS
from dicom_node.delivery.presentation import SOP_CLASSES
from dicom_node.domain import ObjectKind
from dicom_node.errors import ConfigurationError, PeerRefused
from dicom_node.ledger.backlog import open_shipments
from dicom_node.peers_document import PeersDocument, peer_from
from dicom_node.settings import Peer

__all__ = ["PAGE"]

router = APIRouter()
PAGE = Page(router, title="Peers", path="/peers", order=20)

# What it is sent as, in the words of the standard, and what where the peer refuses that.
SENT_AS = {
    kind: [UID(uid).name.removesuffix(" Storage") for uid in SOP_CLASSES[kind]]
    for kind in ObjectKind
}


@router.get("/peers")
def show(request: Request) -> Response:
    """Show all peers."""
    console = console_of(request)
    peers = console.settings().peers
    return render(
        request,
        "peers.html",
        peers=[(peer, console.trials.last(peer.name)) for peer in peers],
        document=document_state(request),
        kind_words=KIND_WORDS,
        every_kind=len(ObjectKind),
    )


@router.get("/peers/add", dependencies=[ADMIN])
def add(request: Request) -> Response:
    """Show the form of a new peer."""
    return _form(request, PeerForm.new(), "")


@router.post("/peers/add", dependencies=[ADMIN])
async def save_new(request: Request) -> Response:
    """Add a peer."""
    return await _save(request, "")


@router.get("/peers/{name}/details")
def details(request: Request, name: str) -> Response:
    """Show one peer; as a fragment, how its test goes."""
    peer = _peer(request, name)
    trial = console_of(request).trials.last(name)
    if is_fragment(request):
        return render(request, "_trial.html", peer=peer, trial=trial, words="")
    return _details(request, peer)


@router.get("/peers/{name}/edit", dependencies=[ADMIN])
def edit(request: Request, name: str) -> Response:
    """Show the form of a peer."""
    return _form(request, PeerForm.of(_peer(request, name)), name)


@router.post("/peers/{name}/edit", dependencies=[ADMIN])
async def save(request: Request, name: str) -> Response:
    """Change a peer."""
    _peer(request, name)
    return await _save(request, name)


@router.post("/peers/{name}/enable", dependencies=[ADMIN])
def enable(request: Request, name: str) -> Response:
    """Let a peer be heard and served again."""
    return _switch(request, name, enabled=True)


@router.post("/peers/{name}/disable", dependencies=[ADMIN])
def disable(request: Request, name: str) -> Response:
    """Neither hear nor serve a peer, without forgetting it."""
    return _switch(request, name, enabled=False)


@router.get("/peers/{name}/remove", dependencies=[ADMIN])
def ask_to_remove(request: Request, name: str) -> Response:
    """Ask whether it is meant, and say what it means."""
    return _confirm(request, _peer(request, name))


@router.post("/peers/{name}/remove", dependencies=[ADMIN])
def remove(request: Request, name: str, sure: Annotated[str, Form()] = "") -> Response:
    """Remove a peer."""
    peer = _peer(request, name)
    if sure != "yes":
        return _confirm(request, peer)
    words = f"peer {name} removed"
    try:
        _changed(request, words, lambda document, change: document.remove(name, change))
    except ConfigurationError as error:
        return _confirm(request, peer, words=str(error))
    return go_to(request, "/peers", said=f"{name} is removed.")


@router.post("/peers/{name}/test", dependencies=[ADMIN])
def test(request: Request, name: str) -> Response:
    """Begin a connection test; the page of the peer shows how it goes."""
    console = console_of(request)
    peer = _peer(request, name)
    words = ""
    try:
        console.trials.start(console.settings(), peer)
        record(request, f"connection test of peer {name}")
    except TooManyTrials as refusal:
        words = str(refusal)
    if is_fragment(request):
        trial = console.trials.last(name)
        return render(request, "_trial.html", peer=peer, trial=trial, words=words)
    return go_to(request, f"/peers/{name}/details#test", said=words)


def _peer(request: Request, name: str) -> Peer:
    """Return the peer of this name, as it is in force.

    Raises
    ------
    HTTPException
        404: there is none.
    """
    for peer in console_of(request).settings().peers:
        if peer.name == name:
            return peer
    raise HTTPException(404, "There is no such peer.")


def _details(request: Request, peer: Peer, *, words: str = "") -> Response:
    return render(
        request,
        "peer.html",
        status_code=422 if words else 200,
        peer=peer,
        trial=console_of(request).trials.last(peer.name),
        document=document_state(request),
        words=words,
        kind_words=KIND_WORDS,
        sent_as=SENT_AS,
    )


async def _save(request: Request, name: str) -> Response:
    """Take what was sent in as the peer called `name`, or as a new one; show what is wrong."""
    sent = await request.form()
    form = PeerForm.sent(sent)
    seen = str(sent.get("seen", ""))
    if name:
        form = PeerForm({**form.texts, "name": name}, form.chosen)
    faults = form.faults()
    try:
        peer = peer_from(form.fields())
    except PeerRefused as refusal:
        # What is left empty is told as such.
        return _form(request, form, name, faults={**refusal.faults, **faults})
    if faults:
        return _form(request, form, name, faults=faults)
    words = f"peer {peer.name} {'changed' if name else 'added'}: {peer.ae_title} at {peer.place}"
    try:
        if name:
            _changed(
                request, words, lambda document, change: document.change(
                    name, peer, change, seen=seen
                )
            )  # fmt: skip
        else:
            _changed(request, words, lambda document, change: document.add(peer, change))
    except PeerRefused as refusal:
        return _form(request, form, name, faults=refusal.faults)
    except ConfigurationError as error:
        return _form(request, form, name, words=str(error))
    if sent.get("then") == "test":
        console = console_of(request)
        try:
            console.trials.start(console.settings(), _peer(request, peer.name))
            record(request, f"connection test of peer {peer.name}")
        except TooManyTrials as refusal:
            said = f"{peer.name} is saved. {refusal}"
            return go_to(request, f"/peers/{peer.name}/details", said=said)
    return go_to(request, f"/peers/{peer.name}/details", said=f"{peer.name} is saved.")


def _switch(request: Request, name: str, *, enabled: bool) -> Response:
    peer = _peer(request, name)
    switched = peer.model_copy(update={"enabled": enabled})
    state = "enabled" if enabled else "disabled"
    words = f"peer {name} {state}"
    try:
        _changed(request, words, lambda document, change: document.change(name, switched, change))
    except ConfigurationError as error:
        return _details(request, peer, words=str(error))
    return go_to(request, f"/peers/{name}/details", said=f"{name} is {state}.")


def _changed(request: Request, words: str, make: Callable[[PeersDocument, Change], Any]) -> None:
    """Change the document, have it in force, and record who did it.

    Raises
    ------
    ConfigurationError
        Nothing was changed.
    """
    document = document_of(request)
    make(PeersDocument(document.path), change_of(request, words))
    console_of(request).settings()  # the next page is to show it
    record(request, words, kind=EventType.NETWORK_CONFIGURATION, action="U")


def _form(
    request: Request,
    form: PeerForm,
    name: str,
    *,
    faults: dict[str, str] | None = None,
    words: str = "",
) -> Response:
    console = console_of(request)
    state = document_state(request)
    try:
        seen = document_of(request).digest()
    except ConfigurationError:
        seen = ""
    settings = console.settings()
    return render(
        request,
        "peer_form.html",
        status_code=422 if faults or words else 200,
        form=form,
        name=name,
        faults=faults or {},
        words=words,
        seen=seen,
        document=state,
        has_tls=settings.tls.enabled,
        kinds=[(kind, KIND_WORDS[kind], SENT_AS[kind]) for kind in ObjectKind],
        our_port=settings.listener.port,
    )


def _confirm(request: Request, peer: Peer, *, words: str = "") -> Response:
    console = console_of(request)
    return render(
        request,
        "peer_remove.html",
        status_code=422 if words else 200,
        peer=peer,
        words=words,
        waiting=open_shipments(console.ledger.database, peer.name),
        document=document_state(request),
    )
