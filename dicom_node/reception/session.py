"""What came of one association or one request; the ledger hears of it at its first instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_node.audit import Transfer
from dicom_node.domain import Receipt, StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Tally
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.reception.intake import Intake
from dicom_node.reception.water_marks import WaterMarks
from dicom_node.spool import Spool

__all__ = ["Reception", "ReceptionSession"]

_MOST_STUDIES = 1000  # of one association, that the audit trail tells apart


@dataclass(frozen=True, slots=True)
class Reception:
    """What all associations or requests of one process share."""

    spool: Spool
    intake: Intake
    group_commit: GroupCommit
    marks: WaterMarks | None = None
    tally: Tally = field(default_factory=Tally)


class ReceptionSession:
    """The storage side of one association, or of one request.

    Parameters
    ----------
    verb : str
        What an answer is counted under: ``c_store``, ``stow``.
    """

    def __init__(
        self,
        reception: Reception,
        *,
        calling_ae: str,
        called_ae: str,
        address: str,
        verb: str = "c_store",
    ) -> None:
        self.reception = reception
        self._who = {"calling_ae": calling_ae, "called_ae": called_ae, "address": address}
        self._verb = verb
        self._association_id: int | None = None
        self.calling_ae = calling_ae
        self.transfers: dict[str, Transfer] = {}  # study instance UID → what came of it
        self.receipts: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()

    @property
    def association_id(self) -> int:
        """The ledger's id of this association; a request has one, too."""
        if self._association_id is None:
            self._association_id = self.reception.intake.open_association(**self._who)
        return self._association_id

    def commit(self, arrival: Arrival, make_durable: Callable[[], None]) -> Receipt:
        """Make an arrival and its file durable, with whatever others bring now."""
        return self.reception.group_commit.commit(arrival, make_durable)

    def note_answer(self, outcome: str, status: int) -> None:
        """Count what was answered to an instance."""
        self.receipts[outcome] += 1
        self.reception.tally.count(self._verb, outcome, f"0x{status:04X}")

    def note_transfer(self, header: InstanceHeader) -> None:
        """Remember for the audit trail what was taken, of the studies that one route holds."""
        uid = header.study_instance_uid
        if uid not in self.transfers:
            if len(self.transfers) >= _MOST_STUDIES:
                uid = ""  # counted all the same, under no study
            self.transfers.setdefault(uid, Transfer(uid, header.patient_id if uid else ""))
        self.transfers[uid].sop_classes[header.sop_class_uid] += 1

    def forget(self, stored: StoredInstance) -> None:
        """Delete an instance that the ledger did not take."""
        self.reception.spool.remove(stored.digest)

    def count_ignored(self, sop_class_uid: str) -> None:
        """Note an object that was taken and thrown away."""
        _ = self.association_id
        self._ignored[sop_class_uid] += 1

    def close(self, outcome: str) -> None:
        """Tell the ledger how it ended, if it knows of it.

        Raises
        ------
        Exception
            Whatever the ledger raises.
        """
        if self._association_id is not None:
            self.reception.intake.close_association(
                self._association_id, outcome=outcome, ignored=self._ignored
            )
