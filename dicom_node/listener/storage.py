"""C-STORE over one association: which dataset goes where (PS3.4 Annex B)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dicom_node.domain import is_legal_uid
from dicom_node.errors import DatasetMismatch
from dicom_node.listener.command_set import Command, CommandField
from dicom_node.listener.negotiation import AcceptedContext
from dicom_node.listener.reports import CommitmentReports, ReportInProgress
from dicom_node.reception.kept import Dataset, IgnoredInstance, KeptInstance
from dicom_node.reception.session import Reception, ReceptionSession
from dicom_node.reception.sop_classes import CT_STORAGE
from dicom_node.reception.status import SOPClassNotSupported

__all__ = ["Session", "Storage"]


@dataclass(frozen=True, slots=True)
class Storage(Reception):
    """What all associations of one listener share."""

    reports: CommitmentReports | None = None


class Session(ReceptionSession):
    """The storage side of one association."""

    reception: Storage

    def __init__(
        self,
        storage: Storage,
        *,
        calling_ae: str,
        called_ae: str,
        address: str,
        reporters: frozenset[str] = frozenset(),
        max_resends: int = 0,
        heard: Callable[..., None] = lambda _taken, **_peer: None,
    ) -> None:
        super().__init__(storage, calling_ae=calling_ae, called_ae=called_ae, address=address)
        self._reporters = reporters  # names of the destinations that this caller is
        self._max_resends = max_resends
        self._heard = partial(heard, ae_title=calling_ae, address=address)

    def begin(self, command: Command, context: AcceptedContext) -> Dataset:
        """Prepare for the dataset of a C-STORE-RQ or N-EVENT-REPORT-RQ.

        Raises
        ------
        ReceiveError
            The command alone is reason enough to refuse.
        """
        if command.field == CommandField.N_EVENT_REPORT_RQ:
            return ReportInProgress(
                command,
                context,
                self.reception.reports,
                self._reporters,
                self._max_resends,
                self._heard,
            )
        if command.sop_class_uid != context.abstract_syntax:
            raise SOPClassNotSupported("SOP Class UID is not that of the presentation context")
        if not is_legal_uid(command.sop_instance_uid):
            raise DatasetMismatch("Affected SOP Instance UID is missing or illegal")
        if command.sop_class_uid not in CT_STORAGE:
            return IgnoredInstance(self, command.sop_class_uid)
        return KeptInstance(
            self,
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=context.transfer_syntax,
        )

    def close(self, outcome: str) -> None:
        """Tell the ledger how the association ended, if it knows of it.

        Raises
        ------
        Exception
            Whatever the ledger raises.
        """
        self.reception.tally.count("associations", outcome)
        super().close(outcome)
