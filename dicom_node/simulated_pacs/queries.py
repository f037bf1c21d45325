"""C-FIND matching over held instances (PS3.4 C.2.2.2), Study Root and Patient Root."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.simulated_pacs.holdings import Instance

__all__ = ["LEVELS", "answers", "matching"]

# Level -> the attribute that is unique at it.
LEVELS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
_COUNTS = {
    "NumberOfPatientRelatedStudies": "StudyInstanceUID",
    "NumberOfPatientRelatedSeries": "SeriesInstanceUID",
    "NumberOfPatientRelatedInstances": "SOPInstanceUID",
    "NumberOfStudyRelatedSeries": "SeriesInstanceUID",
    "NumberOfStudyRelatedInstances": "SOPInstanceUID",
    "NumberOfSeriesRelatedInstances": "SOPInstanceUID",
}
_NOT_MATCHED = {"QueryRetrieveLevel", "SpecificCharacterSet", "ModalitiesInStudy", *_COUNTS}
_WILDCARD_VRS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}


def matching(instances: Iterable[Instance], identifier: Dataset) -> list[Instance]:
    """Return the instances that match every key of `identifier`."""
    keys = [key for key in identifier if key.keyword not in _NOT_MATCHED]
    return [
        instance for instance in instances if all(_matches(key, instance.header) for key in keys)
    ]


def answers(instances: Iterable[Instance], identifier: Dataset) -> Iterator[Dataset]:
    """Yield one response identifier per entity at the level that `identifier` asks for.

    Raises
    ------
    ValueError
        The level is none of PATIENT, STUDY, SERIES, IMAGE.
    """
    level = str(identifier.get("QueryRetrieveLevel", ""))
    if level not in LEVELS:
        raise ValueError(f"no query/retrieve level {level!r}")
    entities: dict[str, list[Dataset]] = {}
    for instance in matching(instances, identifier):
        unique = str(instance.header.get(LEVELS[level], ""))
        entities.setdefault(unique, []).append(instance.header)
    for headers in entities.values():
        yield _answer(identifier, headers)


def _answer(identifier: Dataset, headers: list[Dataset]) -> Dataset:
    answer = Dataset()
    for key in identifier:
        if key.keyword == "QueryRetrieveLevel":
            answer.QueryRetrieveLevel = key.value
        elif key.keyword in _COUNTS:
            counted = {str(header.get(_COUNTS[key.keyword], "")) for header in headers}
            setattr(answer, key.keyword, len(counted))
        elif key.keyword == "ModalitiesInStudy":
            answer.ModalitiesInStudy = sorted({str(one.get("Modality", "")) for one in headers})
        elif key.tag in headers[0]:
            answer.add(headers[0][key.tag])
        else:
            answer.add(DataElement(key.tag, key.VR, None))
    if "SpecificCharacterSet" in headers[0]:
        answer.SpecificCharacterSet = headers[0].SpecificCharacterSet
    return answer


def _matches(key: DataElement, header: Dataset) -> bool:
    if key.is_empty or key.VR == "SQ":
        return True  # universal matching
    held = str(header.get(key.keyword, "") or "") if key.keyword else ""
    wanted = key.value
    if key.VR == "UI":
        uids = [wanted] if isinstance(wanted, str) else list(wanted)
        return held in {str(uid) for uid in uids}
    text = str(wanted)
    if key.VR in {"DA", "TM"} and "-" in text:
        first, _, last = text.partition("-")
        return (not first or held >= first) and (not last or held <= last) and bool(held)
    if key.VR in _WILDCARD_VRS and ("*" in text or "?" in text):
        return fnmatch.fnmatchcase(held, text.replace("[", "[[]"))
    return held == text
