"""The results back from the PACS: C-FIND for the series of a study, C-GET for their objects.

PS3.4 C.6.2 (Study Root) at SERIES level. C-GET brings the objects over the association that asks
for them, so nobody has to know our address.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_node.delivery.presentation import transfer_syntaxes
from dicom_node.demo.local_pacs import CALLING_AE_TITLE, LocalPacs
from dicom_node.domain import is_legal_uid
from dicom_node.errors import NodeError

__all__ = ["FoundSeries", "RetrievalFailed", "find_series", "get_series"]

_RESULT_CLASSES = (
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    EnhancedSRStorage,
    BasicTextSRStorage,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
    SecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
_TIMEOUT_S = 60.0


class RetrievalFailed(NodeError):
    """The PACS did not answer, or did not bring everything."""


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series as the PACS lists it.

    Attributes
    ----------
    instances : int or None
        NumberOfSeriesRelatedInstances (0020,1209); None if the PACS does not tell.
    """

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    description: str
    instances: int | None


def find_series(pacs: LocalPacs, study_instance_uid: str) -> list[FoundSeries]:
    """List the series of a study by C-FIND.

    Raises
    ------
    RetrievalFailed
    """
    identifier = _series_level(study_instance_uid, "")
    identifier.Modality = identifier.SeriesDescription = ""
    identifier.SeriesNumber = identifier.NumberOfSeriesRelatedInstances = None
    found: list[Dataset] = []
    context = build_context(StudyRootQueryRetrieveInformationModelFind)
    with _associated(pacs, [context], []) as association:
        for status, answer in association.send_c_find(
            identifier, StudyRootQueryRetrieveInformationModelFind
        ):
            code = _status(status, "C-FIND")
            if code in (0xFF00, 0xFF01) and answer is not None:
                found.append(answer)
            elif code != 0x0000:
                raise RetrievalFailed(f"{pacs.name} answered C-FIND with 0x{code:04X}")
    found.sort(key=lambda answer: int(answer.get("SeriesNumber") or 0))
    return [_as_series(study_instance_uid, answer) for answer in found]


def get_series(pacs: LocalPacs, series: FoundSeries, folder: Path) -> list[Path]:
    """Fetch a series of results by C-GET into `folder`; return its files.

    Raises
    ------
    RetrievalFailed
        The PACS refused, or could not send some of the objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []

    def keep(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not is_legal_uid(uid):  # it becomes a file name
            return 0xA900
        path = folder / f"{uid}.dcm"
        path.write_bytes(event.encoded_dataset())
        files.append(path)
        return 0x0000

    # A context per transfer syntax, so that nothing has to be transcoded on its way here.
    storage = [
        build_context(sop_class, syntax)
        for sop_class in _RESULT_CLASSES
        for syntax in transfer_syntaxes(sop_class, ExplicitVRLittleEndian, "jpeg")
    ]
    context = build_context(StudyRootQueryRetrieveInformationModelGet)
    identifier = _series_level(series.study_instance_uid, series.series_instance_uid)
    with _associated(pacs, [context, *storage], [(evt.EVT_C_STORE, keep)]) as association:
        for status, _ in association.send_c_get(
            identifier, StudyRootQueryRetrieveInformationModelGet
        ):
            code = _status(status, "C-GET")
            failed = status.get("NumberOfFailedSuboperations") or 0
            if code not in (0x0000, 0xFF00) or failed:
                raise RetrievalFailed(
                    f"{pacs.name} answered C-GET of {series.description or 'a series'} with "
                    f"0x{code:04X}, {failed} objects failed"
                )
    return sorted(files)


def _series_level(study_instance_uid: str, series_instance_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    return identifier


def _as_series(study_instance_uid: str, answer: Dataset) -> FoundSeries:
    count = answer.get("NumberOfSeriesRelatedInstances")
    return FoundSeries(
        study_instance_uid,
        str(answer.get("SeriesInstanceUID", "")),
        str(answer.get("Modality") or ""),
        str(answer.get("SeriesDescription") or ""),
        None if count is None else int(count),
    )


def _status(status: Dataset, operation: str) -> int:
    if "Status" not in status:
        raise RetrievalFailed(f"the PACS stopped answering during {operation}")
    return int(status.Status)


@contextmanager
def _associated(pacs: LocalPacs, contexts: list[Any], handlers: list[Any]) -> Iterator[Any]:
    ae = AE(CALLING_AE_TITLE)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT_S
    ae.maximum_pdu_size = 131072
    association = ae.associate(
        "127.0.0.1",
        pacs.port,
        contexts=contexts,
        ae_title=pacs.ae_title,
        # We are the SCP of what comes back (PS3.7 D.3.3.4).
        ext_neg=[build_role(uid, scp_role=True) for uid in _RESULT_CLASSES if len(contexts) > 1],
        evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay), *handlers],
    )
    if not association.is_established:
        raise RetrievalFailed(f"{pacs.name} accepts no association for C-FIND or C-GET")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
