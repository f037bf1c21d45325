"""A cohort from a PACS: C-FIND for the series of each study, C-GET or C-MOVE for their images.

Study Root model (PS3.4 C.6.2). Of each study that series is taken which the node would read
(:func:`dicom_node.selection.choose_series`). A patient whose folder is there already is kept, so
the command can be repeated.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.domain import is_legal_uid
from dicom_node.errors import SeriesRejected
from dicom_node.selection import Candidate, choose_series, read_frames, select_stack
from dicom_node.series_folder import FoundSeries, find_series
from dicom_node.settings import NodeSettings, Peer
from inference.domain import DiseaseClass
from training.cohort.table import Cohort, CohortRow, read_cohort, write_cohort
from training.errors import CohortError

__all__ = ["WantedStudy", "pull_cohort", "read_study_list"]

Progress = Callable[[str, int, int], None]

_PENDING = (0xFF00, 0xFF01)
_IMAGES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
)


@dataclass(frozen=True, slots=True)
class WantedStudy:
    """A row of a study list; either of the two study keys is filled."""

    patient_id: str
    label: DiseaseClass
    study_instance_uid: str
    accession_number: str
    series_instance_uid: str
    number: int


class _Refused(Exception):
    """The PACS did not give what was asked for; the text says why."""


def read_study_list(file: Path) -> list[WantedStudy]:
    """Read ``patient_id, label, study_instance_uid | accession_number[, series_instance_uid]``.

    Raises
    ------
    CohortError
        Names the row.
    """
    known = {disease.key: disease for disease in DiseaseClass}
    wanted: list[WantedStudy] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            for record in (reader := csv.DictReader(stream, strict=True)):
                row = {k: (v or "").strip() for k, v in record.items() if isinstance(k, str)}
                line = reader.line_num
                if not row.get("patient_id"):
                    raise CohortError(file, line, "patient_id is empty")
                if row.get("label") not in known:
                    raise CohortError(file, line, f"unknown label {row.get('label')!r}")
                study, accession = (
                    row.get("study_instance_uid", ""),
                    row.get("accession_number", ""),
                )
                if not study and not accession:
                    raise CohortError(file, line, "names neither study_instance_uid nor accession")
                if any(one.patient_id == row["patient_id"] for one in wanted):
                    raise CohortError(file, line, f"patient {row['patient_id']!r} stands twice")
                series = row.get("series_instance_uid", "")
                label = known[row["label"]]
                wanted.append(WantedStudy(row["patient_id"], label, study, accession, series, line))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CohortError(file, None, f"cannot be read: {reason}") from error
    if not wanted:
        raise CohortError(file, None, "names no study")
    return wanted


def pull_cohort(
    settings: NodeSettings,
    peer: Peer,
    study_list: Path,
    out: Path,
    *,
    by_move: bool = False,
    move_port: int | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Fetch the studies of a list and write ``OUT/cohort.csv``.

    Parameters
    ----------
    settings : NodeSettings
        Own AE title, time limits, and which series are suitable.
    peer : Peer
        The PACS.
    study_list : Path
        See :func:`read_study_list`.
    out : Path
        Series go to ``OUT/series/<digest of patient_id>``.
    by_move : bool
        C-MOVE to the node's own AE title instead of C-GET; the node's listener must not run on
        `move_port` meanwhile.
    move_port : int or None
        None: the listener's port.
    progress : callable or None
        Called with ("studies", done, all).

    Raises
    ------
    CohortError
        Names the row whose study cannot be had; what was fetched before is kept.
    """
    wanted = read_study_list(study_list)
    rows = []
    port = settings.listener.port if move_port is None else move_port
    for done, study in enumerate(wanted, start=1):
        folder = out / "series" / hashlib.sha256(study.patient_id.encode()).hexdigest()[:16]
        if not folder.is_dir():
            aside = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            try:
                _fetch(settings, peer, study, aside, port if by_move else None)
                _keep_best(settings, aside)
            except _Refused as error:
                raise CohortError(
                    study_list, study.number, f"patient {study.patient_id!r}: {error}"
                ) from error
            aside.rename(folder)
        rows.append(CohortRow(study.patient_id, folder, study.label, None, None, done + 1))
        if progress is not None:
            progress("studies", done, len(wanted))
    write_cohort(out / "cohort.csv", rows)
    return read_cohort(out / "cohort.csv")


def _fetch(
    settings: NodeSettings, peer: Peer, study: WantedStudy, folder: Path, move_port: int | None
) -> None:
    """Bring all CT series of a study (or the one named) into `folder`."""
    study_uid = study.study_instance_uid or _study_of(settings, peer, study.accession_number)
    series = [study.series_instance_uid] if study.series_instance_uid else None
    series = series or _ct_series(settings, peer, study_uid)
    for uid in series:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "SERIES"
        identifier.StudyInstanceUID = study_uid
        identifier.SeriesInstanceUID = uid
        (_get if move_port is None else _move)(settings, peer, identifier, folder, move_port or 0)


def _study_of(settings: NodeSettings, peer: Peer, accession_number: str) -> str:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.AccessionNumber = accession_number
    identifier.StudyInstanceUID = ""
    found = {
        str(answer.get("StudyInstanceUID", ""))
        for answer in _find(settings, peer, identifier)
        if str(answer.get("AccessionNumber", accession_number)) == accession_number
    }
    if len(found) != 1:
        raise _Refused(f"{peer.name} knows {len(found)} studies of this accession number")
    return found.pop()


def _ct_series(settings: NodeSettings, peer: Peer, study_instance_uid: str) -> list[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = ""
    identifier.Modality = ""
    answers = list(_find(settings, peer, identifier))
    found = [str(a.SeriesInstanceUID) for a in answers if str(a.get("Modality") or "CT") == "CT"]
    if not found:
        raise _Refused(f"{peer.name} has {len(answers)} series of this study, none is CT")
    return sorted(found)


def _find(settings: NodeSettings, peer: Peer, identifier: Dataset) -> Iterator[Dataset]:
    model = StudyRootQueryRetrieveInformationModelFind
    with _associated(settings, peer, [model]) as association:
        for status, answer in association.send_c_find(identifier, model):
            code = _code(peer, status, "C-FIND")
            if code in _PENDING and answer is not None:
                yield answer
            elif code != 0x0000:
                raise _Refused(f"{peer.name} answered C-FIND with 0x{code:04X}")


def _get(settings: NodeSettings, peer: Peer, identifier: Dataset, folder: Path, _port: int) -> None:
    model = StudyRootQueryRetrieveInformationModelGet
    with _associated(settings, peer, [model], _Keeper(folder)) as association:
        _require_all(peer, "C-GET", association.send_c_get(identifier, model))


def _move(settings: NodeSettings, peer: Peer, identifier: Dataset, folder: Path, port: int) -> None:
    model = StudyRootQueryRetrieveInformationModelMove
    receiver = AE(settings.ae_title)
    for sop_class in _IMAGES:
        receiver.add_supported_context(sop_class, list(_SYNTAXES))
    try:
        server = receiver.start_server(
            (settings.listener.host, port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, _Keeper(folder))],
        )
    except OSError as error:
        raise _Refused(f"port {port} cannot be listened on: {error.strerror}") from error
    try:
        with _associated(settings, peer, [model]) as association:
            answers = association.send_c_move(identifier, settings.ae_title, model)
            _require_all(peer, "C-MOVE", answers)
    finally:
        server.shutdown()


class _Keeper:
    """C-STORE handler: writes each image as a Part 10 file named by its UID."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not is_legal_uid(uid):  # it becomes a file name
            return 0xA900
        (self._folder / f"{uid}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000


def _require_all(peer: Peer, operation: str, answers: Iterator[tuple[Dataset, Any]]) -> None:
    for status, _ in answers:
        code = _code(peer, status, operation)
        failed = status.get("NumberOfFailedSuboperations") or 0
        if code not in (0x0000, 0xFF00) or failed:
            raise _Refused(
                f"{peer.name} answered {operation} with 0x{code:04X}, {failed} images failed"
            )


def _code(peer: Peer, status: Dataset, operation: str) -> int:
    if "Status" not in status:
        raise _Refused(f"{peer.name} stopped answering during {operation}")
    return int(status.Status)


@contextmanager
def _associated(
    settings: NodeSettings, peer: Peer, models: list[Any], keeper: _Keeper | None = None
) -> Iterator[Any]:
    ae = AE(settings.ae_title)
    ae.connection_timeout = settings.delivery.connect_timeout_s
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.delivery.response_timeout_s
    ae.maximum_pdu_size = 131072
    for model in models:
        ae.add_requested_context(model)
    roles = []
    if keeper is not None:
        # A context per transfer syntax: the images come as they are stored, not transcoded.
        for syntax in _SYNTAXES:
            for sop_class in _IMAGES:
                ae.add_requested_context(sop_class, syntax)
        # We are the SCP of what comes back (PS3.7 D.3.3.4).
        roles = [build_role(sop_class, scp_role=True) for sop_class in _IMAGES]
    association = ae.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        ext_neg=roles,
        evt_handlers=[(evt.EVT_C_STORE, keeper)] if keeper is not None else [],
    )
    if not association.is_established:
        raise _Refused(f"{peer.name} accepts no association at {peer.host}:{peer.port}")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _keep_best(settings: NodeSettings, folder: Path) -> None:
    """Leave only the files of the series that the node would read."""
    found = find_series(folder)
    candidates, reasons = [], []
    by_uid: dict[str, FoundSeries] = {}
    for series in found.series:
        uid = series.headers[0].series_instance_uid
        paths = series.paths
        try:
            stack = select_stack(
                series.headers,
                settings.selection,
                lambda header, paths=paths: read_frames(paths[header.sop_instance_uid]),  # type: ignore[misc]
            )
        except SeriesRejected as error:
            reasons.append(error.reason)
            continue
        by_uid[uid] = series
        candidates.append(Candidate(uid, stack))
    if not candidates:
        raise _Refused(reasons[0] if reasons else "no readable image came")
    best, _ = choose_series(candidates)
    kept = set(by_uid[best].paths.values())
    for path in folder.iterdir():
        if path not in kept:
            path.unlink()
