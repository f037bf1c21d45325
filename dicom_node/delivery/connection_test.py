"""Whether a peer can be reached and takes what it is to get: ``m3lung peers test``."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial

from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.sop_class import Verification

from dicom_node.delivery.commitment import COMMITMENT_CONTEXTS
from dicom_node.delivery.presentation import SOP_CLASSES, transfer_syntaxes
from dicom_node.delivery.scu import sender_of
from dicom_node.delivery.steps import Step, StepResult, is_healthy
from dicom_node.delivery.upper_layer import Association, Context, Sender, connect
from dicom_node.delivery.web_steps import ask_by_web, check_stow
from dicom_node.domain import ObjectKind
from dicom_node.errors import DeliveryError
from dicom_node.settings import NodeSettings, Peer
from dicom_node.source_query import QueryFailed, count_instances
from dicom_node.tls import tls_failure, web_client_context

__all__ = [
    "SOP_CLASSES",
    "Step",
    "StepResult",
    "check_peer",
    "echo",
    "is_healthy",
    "probe",
    "steps_of",
]

_VERIFICATION: Context = (str(Verification), str(ImplicitVRLittleEndian))

_ALERT_S = 0.5  # for a peer that does not accept our certificate to say so
_HUNG_UP = ("closed the connection", "connection lost")
# No series has this UID: the question is whether it is answered at all.
_NO_SUCH_UID = "2.25.0"


def check_peer(settings: NodeSettings, peer: Peer) -> list[Step]:
    """Try `peer` step by step, storing nothing there.

    Nothing is tried behind a failed step. Takes at most a connect timeout and a few response
    timeouts of ``settings.delivery``.
    """
    return list(steps_of(settings, peer))


def steps_of(settings: NodeSettings, peer: Peer) -> Iterator[Step]:
    """Yield the steps of :func:`check_peer`, each as soon as its outcome is known."""
    is_reached, is_associated = True, False
    there, shake_hands = peer, _shake_hands
    if peer.stow_url:
        there = peer.model_copy(update={"host": peer.stow_host, "port": peer.stow_port})
        shake_hands = _shake_hands_by_web
    for try_step in (_resolve, _connect, shake_hands):
        step = try_step(settings, there)
        yield step
        if step.result is StepResult.FAILED:
            is_reached = False
            break
    if is_reached:
        for step in check_stow(settings, peer) if peer.stow_url else _associate(settings, peer):
            is_associated |= step.name == "association" and step.result is StepResult.OK
            yield step
    is_asked = (peer.is_source and peer.query) or (peer.is_destination and peer.verify == "c-find")
    if is_asked:
        yield _query(settings, peer, associated=is_associated or bool(peer.stow_url))


def probe(settings: NodeSettings, peer: Peer) -> Step:
    """Ask whether a destination is there: by C-ECHO, or by HTTP where results go by STOW-RS."""
    return ask_by_web(settings, peer) if peer.stow_url else echo(settings, peer)


def echo(settings: NodeSettings, peer: Peer) -> Step:
    """Verify a connection by C-ECHO alone."""
    try:
        with Association.request(
            sender_of(settings, peer), peer.host, peer.port, peer.ae_title, [_VERIFICATION]
        ) as association:
            return _echo_over(association)
    except DeliveryError as error:
        return Step("C-ECHO", StepResult.FAILED, _with_hint(error, settings, peer))


def _with_hint(error: DeliveryError, settings: NodeSettings, peer: Peer) -> str:
    """Return the error's words; a peer that hangs up on a plain request may want TLS: ask it."""
    if peer.tls or not any(words in str(error) for words in _HUNG_UP):
        return str(error)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Only whether TLS is spoken is asked: nothing is sent over this connection.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    where = (peer.host, peer.port)
    try:
        with socket.create_connection(where, settings.delivery.connect_timeout_s) as plain:
            context.wrap_socket(plain, server_hostname=peer.host).close()
    except ssl.SSLError as failure:
        if "ALERT" not in (failure.reason or ""):  # an alert is TLS, too
            return str(error)
    except OSError:
        return str(error)
    return f"{error}: it speaks TLS on this port, set tls = true for it"


def _resolve(_settings: NodeSettings, peer: Peer) -> Step:
    name = "name resolution"
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        words = f"{peer.host} has no address ({error}): correct the host, or the name server"
        return Step(name, StepResult.FAILED, words)
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return Step(name, StepResult.OK, f"{peer.host} is {', '.join(addresses)}")


def _connect(settings: NodeSettings, peer: Peer) -> Step:
    where = f"{peer.host}:{peer.port}"
    timeout_s = settings.delivery.connect_timeout_s
    began = time.monotonic()
    try:
        socket.create_connection((peer.host, peer.port), timeout=timeout_s).close()
    except ConnectionRefusedError:
        words = f"{where} refuses: nothing listens there; is the port right, is the PACS running?"
    except TimeoutError:
        words = f"{where} does not answer within {timeout_s:g} s: a firewall, or the wrong address"
    except OSError as error:
        words = f"{where} cannot be reached: {error.strerror}"
    else:
        milliseconds = (time.monotonic() - began) * 1000
        return Step("TCP", StepResult.OK, f"{where} connected in {milliseconds:.1f} ms")
    return Step("TCP", StepResult.FAILED, words)


def _shake_hands(settings: NodeSettings, peer: Peer) -> Step:
    if not peer.tls:
        return Step("TLS", StepResult.SKIPPED, "not configured: the connection is plain")
    return _handshake(sender_of(settings, peer), peer)


def _handshake(sender: Sender, peer: Peer) -> Step:
    began = time.monotonic()
    try:
        connection = connect(sender, peer.host, peer.port)
    except DeliveryError as error:
        return Step("TLS", StepResult.FAILED, str(error))
    milliseconds = (time.monotonic() - began) * 1000
    with connection:
        assert isinstance(connection, ssl.SSLSocket)  # noqa: S101  what a peer with tls gets
        words = f"{connection.version()}, {(connection.cipher() or ('?',))[0]}"
        refusal = _refusal_of_ours(connection)
    if refusal:
        return Step("TLS", StepResult.FAILED, f"no TLS connection: {refusal}")
    return Step("TLS", StepResult.OK, f"{words}, certificate as expected, {milliseconds:.1f} ms")


def _shake_hands_by_web(settings: NodeSettings, peer: Peer) -> Step:
    if not peer.stow_url.startswith("https:"):
        return Step("TLS", StepResult.SKIPPED, "stow_url is http: the connection is plain")
    sender = Sender(
        settings.ae_title,
        settings.delivery.connect_timeout_s,
        settings.delivery.response_timeout_s,
        partial(web_client_context, settings, peer),
    )
    return _handshake(sender, peer)


def _refusal_of_ours(connection: ssl.SSLSocket) -> str:
    """Return what the peer says against our certificate: in TLS 1.3 after the handshake only."""
    connection.settimeout(_ALERT_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return ""
    except OSError as error:
        return tls_failure(error)
    return ""


def _associate(settings: NodeSettings, peer: Peer) -> Iterator[Step]:
    outputs = peer.outputs if peer.is_destination else ()
    proposal = [_VERIFICATION, *(COMMITMENT_CONTEXTS if peer.may_report else ())]
    for kind in outputs:
        for sop_class_uid in SOP_CLASSES[kind]:
            proposal += [(sop_class_uid, uid) for uid in _syntaxes(sop_class_uid, peer)]
    titles = f"{settings.ae_title} to {peer.ae_title}"
    try:
        with Association.request(
            sender_of(settings, peer),
            peer.host,
            peer.port,
            peer.ae_title,
            list(dict.fromkeys(proposal)),
        ) as association:
            yield Step("association", StepResult.OK, f"{titles}: accepted")
            if _VERIFICATION in association.accepted:
                yield _echo_over(association)
            else:
                words = "the peer does not offer Verification"
                yield Step("C-ECHO", StepResult.SKIPPED, words)
            for kind in outputs:
                yield _output(association, kind, peer)
            if peer.may_report:
                yield _commitment(association, settings)
    except DeliveryError as error:
        words = f"{titles}: {_with_hint(error, settings, peer)}"
        yield Step("association", StepResult.FAILED, words)


def _echo_over(association: Association) -> Step:
    began = time.monotonic()
    try:
        response = association.c_echo()
    except DeliveryError as error:
        return Step("C-ECHO", StepResult.FAILED, str(error))
    milliseconds = (time.monotonic() - began) * 1000
    if response.status:
        return Step("C-ECHO", StepResult.FAILED, f"answered with status 0x{response.status:04X}")
    return Step("C-ECHO", StepResult.OK, f"answered in {milliseconds:.1f} ms")


def _output(association: Association, kind: ObjectKind, peer: Peer) -> Step:
    """Say what becomes of one output at this peer."""
    refused = []
    for sop_class_uid in SOP_CLASSES[kind]:
        syntaxes = _syntaxes(sop_class_uid, peer)
        taken = [uid for uid in syntaxes if (sop_class_uid, uid) in association.accepted]
        if not taken:
            refused.append(sop_class_uid)
            continue
        words = f"{_title(sop_class_uid)} will be sent as {UID(taken[0]).name}"
        if refused:
            words = f"{', '.join(map(_title, refused))} not accepted: {words}"
        not_taken = [UID(uid).name for uid in syntaxes[: syntaxes.index(taken[0])]]
        if not_taken:
            words += f" ({', '.join(not_taken)} not accepted)"
        return Step(kind.value, StepResult.OK, words)
    reasons = {association.refused.get((uid, str(ExplicitVRLittleEndian)), "") for uid in refused}
    words = (
        f"{', '.join(map(_title, refused))} not accepted ({', '.join(sorted(reasons))}): enable it "
        f"at the peer, or take {kind.value} out of this peer's outputs"
    )
    return Step(kind.value, StepResult.FAILED, words)


def _commitment(association: Association, settings: NodeSettings) -> Step:
    name = "storage commitment"
    if any(context in association.accepted for context in COMMITMENT_CONTEXTS):
        words = (
            f"accepted; a peer that reports on an association of its own has to know "
            f"{settings.ae_title} at port {settings.listener.port} of this machine"
        )
        return Step(name, StepResult.OK, words)
    reasons = {association.refused.get(context, "") for context in COMMITMENT_CONTEXTS}
    words = (
        f"not accepted ({', '.join(sorted(reasons))}): enable it at the peer, or set "
        'commitment = "none", with verify = "c-find" if the peer answers C-FIND'
    )
    return Step(name, StepResult.FAILED, words)


def _query(settings: NodeSettings, peer: Peer, *, associated: bool) -> Step:
    if not associated:
        return Step("C-FIND", StepResult.SKIPPED, "there is no association to ask over")
    try:
        count = count_instances(settings, peer, _NO_SUCH_UID, _NO_SUCH_UID)
    except QueryFailed as error:
        return Step(
            "C-FIND",
            StepResult.FAILED,
            f"{error}: allow our AE title to query, or set query = false",
        )
    if count is None:
        words = "the peer refuses the question how many images a series has: set query = false"
        return Step("C-FIND", StepResult.FAILED, words)
    return Step("C-FIND", StepResult.OK, "answered at series level")


def _syntaxes(sop_class_uid: str, peer: Peer) -> tuple[str, ...]:
    return transfer_syntaxes(sop_class_uid, str(ExplicitVRLittleEndian), peer.compress)


def _title(sop_class_uid: str) -> str:
    return UID(sop_class_uid).name.removesuffix(" Storage")
