"""Whether a STOW-RS destination can be reached and takes what it is to get.

The steps of ``m3lung peers test`` for a peer with ``stow_url``; nothing is stored there.
"""

from __future__ import annotations

from dicom_node.delivery.qido import NO_SUCH_STUDY, list_by_qido
from dicom_node.delivery.steps import Step, StepResult
from dicom_node.delivery.stow import empty_request
from dicom_node.delivery.stow_answer import read_answer
from dicom_node.delivery.web_client import WebAnswer, WebClient, credentials_name
from dicom_node.errors import DeliveryError
from dicom_node.settings import NodeSettings, Peer
from dicom_node.source_query import QueryFailed

__all__ = ["ask_by_web", "check_stow"]

# The server before the PACS says that there is no PACS, or the PACS that it is too busy.
_ABSENT = (429, 502, 503, 504)
_UNAUTHORISED = (401, 403, 407)
# What a STOW-RS service may say of a request without any object: it has understood what it is.
_UNDERSTOOD = (200, 202, 204, 400, 409)


def ask_by_web(settings: NodeSettings, peer: Peer) -> Step:
    """Ask the peer something cheap: is it there? What C-ECHO is for other destinations."""
    name = "HTTP"
    try:
        with WebClient(settings, peer) as client:
            answer = _ask(client)
    except DeliveryError as error:
        return Step(name, StepResult.FAILED, str(error))
    if answer.status in _ABSENT:
        return Step(name, StepResult.FAILED, _meaning(answer, peer))
    return Step(name, StepResult.OK, f"answered {answer.status} in {answer.seconds * 1e3:.1f} ms")


def check_stow(settings: NodeSettings, peer: Peer) -> list[Step]:
    """Return the steps behind TLS: HTTP, authentication, STOW-RS, QIDO-RS."""
    steps = [ask_by_web(settings, peer)]
    if steps[0].result is StepResult.FAILED:
        return steps
    steps.append(_authentication(settings, peer))
    if steps[-1].result is not StepResult.FAILED:
        steps.append(_stow(settings, peer))
    if peer.verify == "qido" and steps[-1].result is not StepResult.FAILED:
        steps.append(_qido(settings, peer))
    return steps


def _ask(client: WebClient) -> WebAnswer:
    # Never the whole archive: a study that nobody has.
    return client.get("", {"StudyInstanceUID": NO_SUCH_STUDY, "limit": "1"})


def _authentication(settings: NodeSettings, peer: Peer) -> Step:
    name = "authentication"
    shown = settings.credentials_of(peer)
    how = "bearer token" if shown.token.get_secret_value() else f"user {shown.user}"
    try:
        with WebClient(settings, peer) as client:
            answer = _ask(client)
    except DeliveryError as error:
        return Step(name, StepResult.FAILED, str(error))
    if answer.status in _UNAUTHORISED:
        return Step(name, StepResult.FAILED, _meaning(answer, peer))
    if not shown.are_shown:
        return Step(name, StepResult.SKIPPED, "not configured: none is shown, none was asked for")
    return Step(name, StepResult.OK, f"{how} shown, and not refused")


def _stow(settings: NodeSettings, peer: Peer) -> Step:
    """Store nothing at all: a service that understands says that nothing was there."""
    content_type, size, content = empty_request()
    try:
        with WebClient(settings, peer) as client:
            answer = client.post(content, content_type=content_type, size_bytes=size)
    except DeliveryError as error:
        return Step("STOW-RS", StepResult.FAILED, str(error))
    if answer.status in _UNDERSTOOD:
        words = f"accepted: a request without any object was answered {answer.status}"
        return Step("STOW-RS", StepResult.OK, words)
    return Step("STOW-RS", StepResult.FAILED, _meaning(answer, peer))


def _qido(settings: NodeSettings, peer: Peer) -> Step:
    try:
        found = list_by_qido(settings, peer, NO_SUCH_STUDY, NO_SUCH_STUDY)
    except QueryFailed as error:
        return Step("QIDO-RS", StepResult.FAILED, str(error))
    if found is None:
        words = 'the peer answers no search: enable QIDO-RS there, or set verify = "none"'
        return Step("QIDO-RS", StepResult.FAILED, words)
    return Step("QIDO-RS", StepResult.OK, "answered at instance level")


def _meaning(answer: WebAnswer, peer: Peer) -> str:
    return read_answer(answer.status, answer.body, "", credentials=credentials_name(peer)).words
