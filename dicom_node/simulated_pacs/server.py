"""The simulated PACS as a pynetdicom SCP that runs in threads of this process."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node.domain import is_legal_uid
from dicom_node.simulated_pacs.behaviour import Behaviour, StoreRequest
from dicom_node.simulated_pacs.commitment import CommitmentScp
from dicom_node.simulated_pacs.holdings import Holdings
from dicom_node.simulated_pacs.queries import LEVELS, answers, matching

__all__ = ["SimulatedPacs"]

_QUERY_MODELS = (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
_A_ABORT = struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 0, 0)
_KEPT_STATUSES = {0x0000, 0x0111, 0xB000, 0xB006, 0xB007}


class SimulatedPacs:
    """A running PACS; a context manager that stops it.

    Parameters
    ----------
    folder : Path
        Where instances are kept, made if missing.
    port : int
        0 asks the system for a free one; see :attr:`port`.
    ssl_context : ssl.SSLContext, optional
        With it the port speaks TLS and nothing else.
    watch : callable, optional
        Gets a line for everything that happens.

    Attributes
    ----------
    holdings : Holdings
    requests : list of StoreRequest
        Every C-STORE request so far.
    commitment : CommitmentScp
        Its requests and reports so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "SIMPACS",
        host: str = "127.0.0.1",
        port: int = 0,
        behaviour: Behaviour | None = None,
        watch: Callable[[str], None] = lambda _line: None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.ae_title = ae_title
        self.host = host
        self.holdings = Holdings(folder)
        self.requests: list[StoreRequest] = []
        self._behaviour = behaviour or Behaviour()
        self._watch = watch
        self._associations = 0
        self._counting = threading.Lock()
        self._aborted_in_object = False
        self._is_listening = True
        self.commitment = CommitmentScp(ae_title, self.holdings, self._behaviour, watch)
        self._server: Any = self._ae().start_server(
            (host, port),
            block=False,
            ssl_context=ssl_context,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._connected),
                (evt.EVT_PDU_RECV, self._received),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_ABORTED, lambda _event: watch("association aborted by the peer")),
                (evt.EVT_C_ECHO, self._echo),
                (evt.EVT_N_ACTION, self.commitment.action),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_C_GET, self._get),
                (evt.EVT_C_MOVE, self._move),
            ],
        )

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening and end every association."""
        self.commitment.stop()
        if self._is_listening:
            self._is_listening = False
            self._server.shutdown()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _ae(self) -> Any:
        behaviour = self._behaviour
        ae = AE(self.ae_title)
        ae.maximum_pdu_size = 131072
        ae.maximum_associations = 100
        ae.require_calling_aet = list(behaviour.known_ae_titles)
        ae.require_called_aet = behaviour.check_called_ae_title
        ae.add_supported_context(Verification)
        syntaxes = list(behaviour.transfer_syntaxes) or ALL_TRANSFER_SYNTAXES
        for context in AllStoragePresentationContexts:
            if not behaviour.sop_classes or context.abstract_syntax in behaviour.sop_classes:
                # Both roles: a requestor of C-GET is the SCP of the instances it gets back.
                ae.add_supported_context(
                    context.abstract_syntax, syntaxes, scu_role=True, scp_role=True
                )
        for model in _QUERY_MODELS if behaviour.queries else ():
            ae.add_supported_context(model)
        if behaviour.commitment.offered:
            ae.add_supported_context(StorageCommitmentPushModel)
        return ae

    # -- associations ---------------------------------------------------------------------------

    def _connected(self, event: Any) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rejection = self._behaviour.rejection
        with self._counting:
            number, self._associations = self._associations, self._associations + 1
        if rejection is None or number >= self._behaviour.reject_first:
            return
        association = event.assoc

        def reject() -> None:
            result, source, reason = rejection
            self._watch(f"association rejected: result {result}, source {source}, reason {reason}")
            association.acse.send_reject(result, source, reason)
            association.kill()

        # pynetdicom decides by itself whom it rejects, and why; here it is told.
        association.acse.negotiate_association = reject

    def _accepted(self, event: Any) -> None:
        requestor = event.assoc.requestor
        self._watch(f"association accepted: {requestor.ae_title} from {requestor.address}")

    def _received(self, event: Any) -> None:
        if self._aborted_in_object or len(self.requests) != self._behaviour.abort_in_object:
            return
        items = getattr(event.pdu, "presentation_data_value_items", ())
        if any(not item.presentation_data_value[0] & 0x01 for item in items):  # a data set's piece
            self._aborted_in_object = True
            self._watch(f"hangs up inside object {len(self.requests)}")
            event.assoc.dul.socket.send(_A_ABORT)
            event.assoc.dul.socket.close()

    def _echo(self, event: Any) -> int:
        self._watch(f"C-ECHO {event.assoc.requestor.ae_title} -> 0x0000")
        return 0x0000

    # -- C-STORE, C-FIND, C-GET, C-MOVE -----------------------------------------------------------

    def _store(self, event: Any) -> int:
        status = self._stored(event)
        self._watch(
            f"C-STORE {event.assoc.requestor.ae_title} {event.request.AffectedSOPInstanceUID} "
            f"-> 0x{status:04X}"
        )
        return status

    def _stored(self, event: Any) -> int:
        with self._counting:
            request = StoreRequest(
                number=len(self.requests),
                calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
                sop_class_uid=str(event.request.AffectedSOPClassUID),
                sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
                transfer_syntax_uid=str(event.context.transfer_syntax),
                abort=event.assoc.abort,
            )
            self.requests.append(request)
        status = self._behaviour.answers(request)
        if status not in _KEPT_STATUSES:
            return status
        if not is_legal_uid(request.sop_instance_uid):
            return 0xA900
        if self._behaviour.loses(request):
            self._watch(f"loses {request.sop_instance_uid}")
            return status
        try:
            self.holdings.keep(request.sop_instance_uid, event.encoded_dataset())
        except OSError:
            return 0xA700
        except (InvalidDicomError, ValueError, AttributeError, TypeError, KeyError):
            return 0xC000
        return status

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.get("QueryRetrieveLevel", "")
        self._watch(f"C-FIND {event.assoc.requestor.ae_title} at level {level}")
        if level == "IMAGE" and not self._behaviour.image_level:
            yield 0xA900, None
            return
        try:
            for answer in answers(self.holdings, event.identifier):
                if event.is_cancelled:
                    yield 0xFE00, None
                    return
                yield 0xFF00, answer
        except ValueError:
            yield 0xA900, None

    def _get(self, event: Any) -> Iterator[int | tuple[int, Dataset | None]]:
        if event.identifier.get("QueryRetrieveLevel") not in LEVELS:
            yield 0
            yield 0xA900, None
            return
        found = matching(self.holdings, event.identifier)
        yield len(found)
        for instance in found:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, dcmread(instance.path)

    def _move(self, event: Any) -> Iterator[Any]:
        destination = str(event.move_destination).strip()
        address = self._behaviour.move_destinations.get(destination)
        if address is None:
            yield None, None  # 0xA801, move destination unknown
            return
        found = matching(self.holdings, event.identifier)
        held = {(instance.sop_class_uid, instance.transfer_syntax_uid) for instance in found}
        contexts = AE()
        for sop_class_uid, syntax in sorted(held):
            contexts.add_requested_context(sop_class_uid, syntax)
        yield (*address, {"contexts": contexts.requested_contexts})
        yield len(found)
        for instance in found:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, dcmread(instance.path)
