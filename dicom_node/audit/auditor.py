"""What the node's parts tell the audit trail, in their own words."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dicom_node.audit.flood import FloodGate
from dicom_node.audit.message import (
    EventID,
    EventType,
    Outcome,
    Role,
    application,
    console_user,
    message,
    network_peer,
    person,
)
from dicom_node.audit.trail import AuditTrail
from dicom_node.logs import get_logger, pseudonym
from dicom_node.settings import NodeSettings

if TYPE_CHECKING:
    from dicom_node.ledger import TakenReport  # the trail is written without a database, too

__all__ = ["Auditor", "Transfer"]

_log = get_logger(__name__)
_REFUSALS_WINDOW_S = 60.0
_QUERIES_WINDOW_S = 600.0


@dataclass(slots=True)
class Transfer:
    """The instances of one study that went over one association."""

    study_instance_uid: str
    patient_id: str = ""
    sop_classes: Counter[str] = field(default_factory=Counter)


class Auditor:
    """One part of the node as a source of audit records.

    Recording never stops the work: a record that cannot be written is logged, counted, and told
    by the next that can.

    Parameters
    ----------
    settings : NodeSettings
        Taken once.
    part : str
        What the process is: "listen", "deliver", "command" …
    """

    def __init__(self, settings: NodeSettings, part: str) -> None:
        audit = settings.audit
        self._enabled = audit.enabled
        self._plain = audit.identifiers == "plain"
        self._part = part
        self._ae_title = settings.ae_title
        self._refusals = FloodGate(_REFUSALS_WINDOW_S)
        self._queries = FloodGate(_QUERIES_WINDOW_S)
        self._lock = threading.Lock()
        self._lost = 0
        self.trail = AuditTrail(
            settings.root / "audit",
            audit.head.expanduser() if audit.head else None,
            rotate_bytes=audit.rotate_bytes,
            keep_days=audit.keep_days,
        )

    # -- the application itself (A.5.3.1) ------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record that this part starts and stops."""
        self._activity(EventType.APPLICATION_START)
        try:
            yield
        finally:
            self.tell_held_back()
            self._activity(EventType.APPLICATION_STOP)

    def _activity(self, kind: EventType) -> None:
        ours = self._ourselves(requestor=False, role=Role.APPLICATION)
        self._record(EventID.APPLICATION_ACTIVITY, "E", Outcome.SUCCESS, [ours], types=(kind,))

    def tell_held_back(self) -> None:
        """Record how many refusals were counted only, before this process ends."""
        held = self._refusals.held_back()
        if held:
            self._record(
                EventID.SECURITY_ALERT,
                "E",
                Outcome.MINOR_FAILURE,
                [self._ourselves(requestor=False, role=Role.DESTINATION)],
                types=(EventType.NODE_AUTHENTICATION,),
                words=f"{held} refusals like recorded ones were counted only",
            )

    # -- the network -----------------------------------------------------------------------------

    def refused(self, words: str, *, address: str, calling_ae: str = "") -> None:
        """Record that a connection or an association was not accepted (A.5.3.11).

        The like of one address is recorded once a minute, with its number.
        """
        held = self._refusals.admit((address, words))
        if held is None:
            return
        if held:
            words += f" ({held} more of these from {address} since the last record)"
        self._record(
            EventID.SECURITY_ALERT,
            "E",
            Outcome.MINOR_FAILURE,
            [
                network_peer(calling_ae, address, requestor=True, role=Role.SOURCE),
                self._ourselves(requestor=False, role=Role.DESTINATION),
            ],
            types=(EventType.NODE_AUTHENTICATION,),
            words=words,
        )

    def received(
        self, transfers: Sequence[Transfer], *, calling_ae: str, address: str, failed: bool
    ) -> None:
        """Record what came in over an association (A.5.3.7), one record for each study."""
        participants = [
            network_peer(calling_ae, address, requestor=True, role=Role.SOURCE),
            self._ourselves(requestor=False, role=Role.DESTINATION),
        ]
        for transfer in transfers:
            self._transferred(transfer, participants, failed=failed)

    def sent(
        self, transfer: Transfer, *, ae_title: str, address: str, failed: bool, words: str = ""
    ) -> None:
        """Record what went to a destination (A.5.3.7)."""
        participants = [
            self._ourselves(requestor=True, role=Role.SOURCE),
            network_peer(ae_title, address, requestor=False, role=Role.DESTINATION),
        ]
        self._transferred(transfer, participants, failed=failed, words=words)

    def queried(self, *, ae_title: str, address: str, sop_class_uid: str, study_uid: str) -> None:
        """Record that we asked a peer about a study (A.5.3.10), the same at most every 10 min."""
        held = self._queries.admit((ae_title, study_uid))
        if held is None:
            return
        self._record(
            EventID.QUERY,
            "E",
            Outcome.SUCCESS,
            [
                self._ourselves(requestor=True, role=Role.SOURCE),
                network_peer(ae_title, address, requestor=False, role=Role.DESTINATION),
            ],
            words=f"{held} more of the same before" if held else "",
            objects=[
                {
                    "ParticipantObjectTypeCode": "2",
                    "ParticipantObjectTypeCodeRole": "3",
                    "ParticipantObjectIDTypeCode": _dcm("110181", "SOP Class UID"),
                    "ParticipantObjectID": sop_class_uid,
                },
                self._study(study_uid),
            ],
        )

    def commitment_reported(
        self, taken: TakenReport | None, *, ae_title: str, address: str
    ) -> None:
        """Record what a peer takes responsibility for, and what it does not.

        `taken` is None for a transaction that this peer was never asked for. Such reports, and
        those that change nothing, are recorded once a minute, with their number.
        """
        if taken is None:
            words = "a report on a transaction that it was not asked for"
        else:
            words = f"{taken.committed} objects committed, {taken.failed} failed"
        held = 0
        if taken is None or not taken.committed + taken.failed:
            admitted = self._refusals.admit((address, words))
            if admitted is None:
                return
            held = admitted
        if held:
            words += f" ({held} more of these from {address} since the last record)"
        with self._told_when_lost():
            self._append(
                EventID.COMMITMENT_REPORTED,
                "E",
                Outcome.MINOR_FAILURE if taken is None or taken.failed else Outcome.SUCCESS,
                [
                    network_peer(ae_title, address, requestor=True, role=Role.DESTINATION),
                    self._ourselves(requestor=False, role=Role.SOURCE),
                ],
                words=words,
                objects=[self._study(taken.study_instance_uid), *self._patient(taken.patient_id)]
                if taken
                else [],
            )

    def purged(self, words: str, studies: Collection[str] = ()) -> None:
        """Record that this node removed received images by its policy (A.5.3.8)."""
        ours = self._ourselves(requestor=True, role=Role.APPLICATION)
        objects = [self._study(uid) for uid in sorted(studies)]
        self._record(
            EventID.STUDY_DELETED, "D", Outcome.SUCCESS, [ours], words=words, objects=objects
        )

    # -- people ----------------------------------------------------------------------------------

    def user_did(
        self,
        words: str,
        *,
        event: EventID = EventID.SECURITY_ALERT,
        action: str = "E",
        kind: EventType | None = EventType.USE_OF_RESTRICTED_FUNCTION,
        studies: Sequence[str] = (),
    ) -> None:
        """Record what somebody ordered at the command line: `words` hold no patient data."""
        self._record(
            event,
            action,
            Outcome.SUCCESS,
            [person(), self._ourselves(requestor=False, role=Role.APPLICATION)],
            types=(kind,) if kind else (),
            words=words,
            objects=[self._study(uid) for uid in studies],
        )

    def console(
        self,
        words: str,
        *,
        user: str,
        address: str,
        event: EventID = EventID.SECURITY_ALERT,
        kind: EventType | None = EventType.USE_OF_RESTRICTED_FUNCTION,
        action: str = "E",
        failed: bool = False,
        studies: Sequence[str] = (),
    ) -> None:
        """Record what somebody did, or was refused, in the console: no patient data in `words`.

        The like refusal of one address and name is recorded once a minute, with its number.
        """
        held = self._refusals.admit((address, user, words)) if failed else 0
        if held is None:
            return
        if held:
            words += f" ({held} more of these since the last record)"
        self._record(
            event,
            action,
            Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS,
            [
                console_user(user, address),
                self._ourselves(requestor=False, role=Role.APPLICATION),
            ],
            types=(kind,) if kind else (),
            words=words,
            objects=[self._study(uid) for uid in studies],
        )

    # -- parts of a message ----------------------------------------------------------------------

    def identifier_of_study(self, uid: str) -> str:
        """Return what stands in the trail for a study: the same digits as in the logs."""
        return uid if self._plain else pseudonym(uid)

    def identifier_of_patient(self, patient_id: str) -> str:
        """Return what stands in the trail for a patient ID."""
        return patient_id if self._plain else self.trail.pseudonym(patient_id)

    def _transferred(
        self,
        transfer: Transfer,
        participants: list[dict[str, Any]],
        *,
        failed: bool,
        words: str = "",
    ) -> None:
        study = self._study(transfer.study_instance_uid)
        study["ParticipantObjectDescription"] = {
            "SOPClass": [
                {"UID": uid, "NumberOfInstances": count}
                for uid, count in sorted(transfer.sop_classes.items())
            ]
        }
        outcome = Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS
        # The patient's identifier needs the trail's key, and with it the disk.
        with self._told_when_lost():
            objects = [study, *self._patient(transfer.patient_id)]
            self._append(
                EventID.INSTANCES_TRANSFERRED,
                "C",
                outcome,
                participants,
                words=words,
                objects=objects,
            )

    def _ourselves(self, *, requestor: bool, role: Role) -> dict[str, Any]:
        return application(self._part, self._ae_title, requestor=requestor, role=role)

    def _study(self, uid: str) -> dict[str, Any]:
        return {
            "ParticipantObjectTypeCode": "2",
            "ParticipantObjectTypeCodeRole": "3",
            "ParticipantObjectIDTypeCode": _dcm("110180", "Study Instance UID"),
            "ParticipantObjectID": self.identifier_of_study(uid),
        }

    def _patient(self, patient_id: str) -> list[dict[str, Any]]:
        if not patient_id or not self._enabled:
            return []
        return [
            {
                "ParticipantObjectTypeCode": "1",
                "ParticipantObjectTypeCodeRole": "1",
                "ParticipantObjectIDTypeCode": {
                    "csd-code": "2",
                    "codeSystemName": "RFC-3881",
                    "originalText": "Patient Number",
                },
                "ParticipantObjectID": self.identifier_of_patient(patient_id),
            }
        ]

    # -- writing ---------------------------------------------------------------------------------

    def _record(self, *parts: Any, **more: Any) -> None:
        with self._told_when_lost():
            self._append(*parts, **more)

    def _append(self, *parts: Any, **more: Any) -> None:
        if not self._enabled:
            return
        made = message(*parts, source_id=self._ae_title, **more)
        with self._lock:
            lost = self._lost
        if lost:
            ours = self._ourselves(requestor=False, role=Role.APPLICATION)
            self.trail.append(
                message(
                    EventID.SECURITY_ALERT,
                    "E",
                    Outcome.SERIOUS_FAILURE,
                    [ours],
                    source_id=self._ae_title,
                    types=(EventType.AUDIT_RECORDING_STARTED,),
                    words=f"{lost} records could not be written before this one",
                )
            )
            with self._lock:
                self._lost -= lost
        self.trail.append(made)

    @contextlib.contextmanager
    def _told_when_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with self._lock:
                self._lost += 1
            _log.error("audit_record_lost", error=type(error).__name__, errno=error.errno)


def _dcm(code: str, meaning: str) -> dict[str, str]:
    return {"csd-code": code, "codeSystemName": "DCM", "originalText": meaning}
