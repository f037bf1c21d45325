"""The storage commitment SCU: an association that asks, and takes reports meanwhile (PS3.4 J).

A peer may report on the very association that asked, before or after its answer to the N-ACTION,
and may use the next one for a report that is still due. Both are taken here; what the peer reports
on an association of its own is the listener's.
"""

from __future__ import annotations

import io
import select
import time
from collections.abc import Callable

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.delivery.dimse import (
    N_EVENT_REPORT_RQ,
    Request,
    Response,
    n_action_rq,
    n_event_report_rsp,
    read_command,
    read_response,
)
from dicom_node.delivery.pdus import P_DATA, gathered, pdvs
from dicom_node.delivery.upper_layer import Association, Context
from dicom_node.ledger import Transaction
from dicom_node.storage_commitment import (
    MAX_REPORT_BYTES,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    EventReport,
    encode_request,
)

__all__ = ["COMMITMENT_CONTEXTS", "CommitmentAssociation"]

COMMITMENT_CONTEXTS: tuple[Context, ...] = (
    (PUSH_MODEL, str(ExplicitVRLittleEndian)),
    (PUSH_MODEL, str(ImplicitVRLittleEndian)),
)
_MAX_COMMAND_BYTES = 16384
_MAX_REPORTS = 100  # on one association


class CommitmentAssociation(Association):
    """An association with :data:`COMMITMENT_CONTEXTS`.

    Attributes
    ----------
    on_report : callable
        Gets each report, returns the DIMSE status of the answer.
    """

    on_report: Callable[[EventReport], int]
    _reports = 0
    _last_context = 0

    def request_commitment(self, transaction: Transaction) -> Response:
        """Ask the peer to commit to the objects of `transaction`; return its answer.

        Raises
        ------
        TransientDelivery
            The association is lost.
        """
        context = next(one for one in COMMITMENT_CONTEXTS if one in self.accepted)
        command = n_action_rq(self._next_id(), PUSH_MODEL, PUSH_MODEL_INSTANCE, REQUEST_ACTION)
        content = encode_request(
            transaction.transaction_uid,
            transaction.references,
            implicit_vr=context[1] == ImplicitVRLittleEndian,
        )
        message = self._message(self.accepted[context], command, io.BytesIO(content))
        self._write(gathered(message))
        while True:
            encoded, dataset = self._read_message()
            request = read_command(encoded)
            if request is None:
                response = read_response(encoded)
                if response.message_id != self._message_id:
                    raise self._broken("the peer answered another message")
                return response
            self._serve(request, dataset)

    def take_reports(self, within_s: float) -> None:
        """Take what the peer reports within `within_s`; a peer that hangs up has nothing to say.

        Raises
        ------
        TransientDelivery
            The peer broke off inside a message, or spoke nonsense.
        """
        deadline = time.monotonic() + within_s
        while self._open and self._speaks_before(deadline):
            encoded, dataset = self._read_message()
            request = read_command(encoded)
            if request is None:
                raise self._broken("the peer answered what was not asked")
            self._serve(request, dataset)

    def _speaks_before(self, deadline: float) -> bool:
        pending = getattr(self._sock, "pending", None)  # of TLS: read, but not yet by us
        if pending is not None and pending():
            return True
        remaining = deadline - time.monotonic()
        return remaining > 0 and bool(select.select([self._sock], [], [], remaining)[0])

    def _serve(self, request: Request, dataset: bytes) -> None:
        self._reports += 1
        if request.field != N_EVENT_REPORT_RQ or self._reports > _MAX_REPORTS:
            raise self._broken(f"the peer made request 0x{request.field:04X} of us")
        explicit = self._last_context in (
            self.accepted.get(context)
            for context in COMMITMENT_CONTEXTS
            if context[1] == ExplicitVRLittleEndian
        )
        status = self.on_report(
            EventReport(
                request.sop_class_uid,
                request.sop_instance_uid,
                request.event_type,
                dataset,
                implicit_vr=not explicit,
            )
        )
        answer = n_event_report_rsp(request, status)
        self._write(self._message(self._last_context, answer, None))

    def _read_message(self) -> tuple[bytes, bytes]:
        """Read one message: its command set and its data set, which may be empty."""
        command, dataset = bytearray(), bytearray()
        while True:
            kind, body = self._read_pdu()
            if kind != P_DATA:
                raise self._broken(f"the peer sent PDU {kind} in place of a message")
            for control, fragment in pdvs(body):
                part = command if control & 0x01 else dataset
                part += fragment
                if len(command) > _MAX_COMMAND_BYTES or len(dataset) > MAX_REPORT_BYTES:
                    raise self._broken("the peer sends an endless message")
                is_last = bool(control & 0x02)
                if is_last and (part is dataset or not _has_dataset(bytes(command))):
                    self._last_context = body[4]
                    return bytes(command), bytes(dataset)


def _has_dataset(command: bytes) -> bool:
    request = read_command(command)
    return read_response(command).has_dataset if request is None else request.has_dataset
