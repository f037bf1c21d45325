"""The simulated PACS as a pynetdicom SCP that runs in threads of this process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node.domain import is_legal_uid
from dicom_node.simulated_pacs.holdings import Holdings
from dicom_node.simulated_pacs.queries import LEVELS, answers, matching

__all__ = ["Behaviour", "SimulatedPacs", "StoreRequest"]

_QUERY_MODELS = (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
_KEPT_STATUSES = {0x0000, 0x0111, 0xB000, 0xB006, 0xB007}


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE request about to be answered.

    Attributes
    ----------
    number : int
        How many requests came before it, to this PACS.
    abort : callable
        Aborts the association in place of an answer.
    """

    number: int
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    abort: Callable[[], None]


def _stored(_request: StoreRequest) -> int:
    return 0x0000


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the PACS behaves; by default, well.

    Attributes
    ----------
    answers : callable
        Status for each C-STORE. An instance is kept when the status is a success or a warning.
        It may sleep first, or call ``request.abort()``.
    known_ae_titles : tuple of str
        Calling AE titles that are let in, empty: all.
    check_called_ae_title : bool
    sop_classes, transfer_syntaxes : tuple of str
        Storage SOP classes and transfer syntaxes that are accepted, empty: all.
    queries : bool
        Whether C-FIND, C-GET and C-MOVE are offered.
    move_destinations : dict of str to (str, int)
        AE title -> host and port for C-MOVE.
    """

    answers: Callable[[StoreRequest], int] = _stored
    known_ae_titles: tuple[str, ...] = ()
    check_called_ae_title: bool = False
    sop_classes: tuple[str, ...] = ()
    transfer_syntaxes: tuple[str, ...] = ()
    queries: bool = True
    move_destinations: dict[str, tuple[str, int]] = field(default_factory=dict)


class SimulatedPacs:
    """A running PACS; a context manager that stops it.

    Parameters
    ----------
    folder : Path
        Where instances are kept, made if missing.
    port : int
        0 asks the system for a free one; see :attr:`port`.

    Attributes
    ----------
    holdings : Holdings
    requests : list of StoreRequest
        Every C-STORE request so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "SIMPACS",
        host: str = "127.0.0.1",
        port: int = 0,
        behaviour: Behaviour | None = None,
    ) -> None:
        self.ae_title = ae_title
        self.host = host
        self.holdings = Holdings(folder)
        self.requests: list[StoreRequest] = []
        self._behaviour = behaviour or Behaviour()
        self._server: Any = self._ae().start_server(
            (host, port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _no_delay),
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
        return ae

    def _store(self, event: Any) -> int:
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
        try:
            self.holdings.keep(request.sop_instance_uid, event.encoded_dataset())
        except OSError:
            return 0xA700
        except (InvalidDicomError, ValueError, AttributeError, TypeError, KeyError):
            return 0xC000
        return status

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
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


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
