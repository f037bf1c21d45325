"""What all objects of one reading share, and the modules that stand in each of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property

from pydicom.dataset import Dataset

from dicom_node.domain import ObjectKind
from dicom_node.header_reader import NODE_MODEL_NAME
from dicom_node.results.codes import Concept
from dicom_node.results.context import ResultContext, ResultOptions
from dicom_node.results.identity import ResultIdentity, device_uid
from dicom_node.results.progress import Progress
from dicom_node.results.source import SourceSeries
from inference.domain import ModelIdentity, SliceReference, Training

__all__ = ["MANUFACTURER", "TRAINING_WORDS", "ResultSet", "image_key"]

MANUFACTURER = "m3lung-node project"

TRAINING_WORDS = {
    Training.UNTRAINED: "UNTRAINED MODEL - THE OUTPUT HAS NO MEANING",
    Training.DEMONSTRATION: "DEMONSTRATION MODEL - NOT FOR CLINICAL USE",
    Training.SITE: "",
}
"""What a reader must be told about the model, beside the banner."""

_SHORT_TRAINING = {
    Training.UNTRAINED: "UNTRAINED",
    Training.DEMONSTRATION: "DEMO",
    Training.SITE: "",
}
_SHORT_NAME = {
    ObjectKind.REPORT: "AI report",
    ObjectKind.OVERLAY: "AI map",
    ObjectKind.SUMMARY: "AI page",
    ObjectKind.SEGMENTATION: "AI SEG",
    ObjectKind.KEY_OBJECTS: "AI key",
}
_FIRST_SERIES_NUMBER = 90000  # behind everything that scanners number
_SERIES_OFFSET = {
    ObjectKind.SUMMARY: 1,
    ObjectKind.OVERLAY: 2,
    ObjectKind.SEGMENTATION: 3,
    ObjectKind.KEY_OBJECTS: 4,
    ObjectKind.REPORT: 5,
}

# Behind the five of the main model, within the ten that a source series has.
_PART_OFFSET = {"": 0, "lobes": 3, "lesions": 4, "explanation": 6}


def image_key(reference: SliceReference) -> str:
    """Return "<SOP Instance UID>/<frame>", the source image's part of a result's UID."""
    return f"{reference.sop_instance_uid}/{reference.frame_number or 1}"


@dataclass(frozen=True)
class ResultSet:
    """The circumstances that the objects of one reading share.

    Attributes
    ----------
    source : SourceSeries
    model : ModelIdentity or None
        None for a series that was not analysed.
    context : ResultContext
    options : ResultOptions
    others : tuple of ModelIdentity
        Further models whose findings stand in the objects.
    part : str
        What series of a further model are called, such as "lobes"; empty for the main one's.
    progress : Progress or None
        The change since an earlier study, where the objects tell it.
    """

    source: SourceSeries
    model: ModelIdentity | None
    context: ResultContext
    options: ResultOptions
    others: tuple[ModelIdentity, ...] = ()
    part: str = ""
    progress: Progress | None = None

    @property
    def models(self) -> tuple[ModelIdentity, ...]:
        """Every model whose findings stand in the objects."""
        return (*((self.model,) if self.model else ()), *self.others)

    @cached_property
    def identity(self) -> ResultIdentity:
        """What decides the UIDs."""
        return ResultIdentity(
            self.source.series_instance_uid,
            self.context.instance_set_digest,
            # One model: its own digest, as ever. More: each of them decides about the objects.
            # What else they tell of decides, too: the part of a system, an earlier study.
            "/".join([*(model.sha256 for model in self.models), *filter(None, self._further)]),
            self.context.configuration_digest,
        )

    @property
    def _further(self) -> tuple[str, str]:
        return self.part, "" if self.progress is None else self.progress.identity

    @cached_property
    def started_at(self) -> datetime:
        """When the analysis began, in the source's time zone where it states one."""
        started = self.context.analysis_started_at
        offset = self.source.timezone
        if not offset or started.tzinfo is None:
            return started
        sign = -1 if offset[0] == "-" else 1
        delta = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5]))
        return started.astimezone(timezone(sign * delta))

    @property
    def training_words(self) -> str:
        """What the reader must be told about the model; empty for a site's own trained one."""
        # The least trained one decides: an untrained model among others makes all of it doubtful.
        order = list(TRAINING_WORDS)
        worst = min((model.training for model in self.models), key=order.index, default=None)
        return TRAINING_WORDS[worst] if worst is not None else ""

    @property
    def model_words(self) -> str:
        """Name, version and short digest of the model, and what it was made from."""
        if self.model is None:
            return "no model"
        return ", ".join(
            f"{model.name} {model.version} ({model.sha256[:8]}, {model.training})"
            for model in self.models
        )

    def series_description(self, kind: ObjectKind) -> str:
        """Kind, state of the model and banner; LO holds 64 characters (PS3.5 §6.2)."""
        training = _SHORT_TRAINING[self.model.training] if self.model else ""
        head = " ".join(filter(None, (_SHORT_NAME[kind], self.part, training)))
        return f"{head}: {self.options.banner}"[:64].rstrip()

    def new_instance(
        self,
        kind: ObjectKind,
        sop_class_uid: str,
        modality: str,
        *,
        of: str = "",
        instance_number: int = 1,
        is_image: bool = True,
    ) -> Dataset:
        """Return a dataset with the modules that every object has.

        Patient, Study, Clinical Trial, Series, General Equipment and SOP Common (PS3.3 C.7.1,
        C.7.2, C.7.3.1, C.7.5.1, C.12.1).

        Parameters
        ----------
        of : str
            Source image (:func:`image_key`), for objects of one slice.
        is_image : bool
            Image series carry body part and request attributes, document series do not
            (PS3.3 C.17.1).
        """
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.update(self.source.modules)
        dataset.SOPClassUID = sop_class_uid
        dataset.SOPInstanceUID = self.identity.instance_uid(kind, sop_class_uid, of)
        dataset.SeriesInstanceUID = self.identity.series_uid(kind)
        dataset.Modality = modality
        dataset.SeriesNumber = self._series_number(kind)
        dataset.SeriesDescription = self.series_description(kind)
        dataset.InstanceNumber = instance_number
        self._put_times(dataset)
        self._put_equipment(dataset)
        if is_image:
            dataset.BodyPartExamined = "CHEST"  # else Laterality is required (PS3.3 C.7.3.1)
            if self.source.request_attributes:
                dataset.RequestAttributesSequence = list(self.source.request_attributes)
        return dataset

    def referenced_requests(self) -> list[Dataset]:
        """Items of the Referenced Request Sequence of documents (PS3.3 C.17.2)."""
        return [self._request(attributes) for attributes in self.source.request_attributes]

    def _request(self, attributes: Dataset) -> Dataset:
        request = Dataset()
        request.StudyInstanceUID = self.source.study_instance_uid
        request.ReferencedStudySequence = []
        request.AccessionNumber = attributes.get("AccessionNumber") or self.source.modules.get(
            "AccessionNumber", ""
        )
        request.PlacerOrderNumberImagingServiceRequest = ""
        request.FillerOrderNumberImagingServiceRequest = ""
        request.RequestedProcedureID = attributes.get("RequestedProcedureID", "")
        request.RequestedProcedureDescription = attributes.get("RequestedProcedureDescription", "")
        request.RequestedProcedureCodeSequence = attributes.get(
            "RequestedProcedureCodeSequence", []
        )
        if "IssuerOfAccessionNumberSequence" in self.source.modules:
            request.IssuerOfAccessionNumberSequence = (
                self.source.modules.IssuerOfAccessionNumberSequence
            )
        return request

    def _series_number(self, kind: ObjectKind) -> int:
        number = self.source.series_number or 0
        spread = 10 * number if 0 < number < 1_000_000 else 0
        return _FIRST_SERIES_NUMBER + spread + _SERIES_OFFSET[kind] + _PART_OFFSET[self.part]

    def _put_times(self, dataset: Dataset) -> None:
        date, time = self.started_at.strftime("%Y%m%d"), self.started_at.strftime("%H%M%S")
        for name in ("InstanceCreation", "Series", "Content"):
            setattr(dataset, f"{name}Date", date)
            setattr(dataset, f"{name}Time", time)
        if self.source.timezone:
            dataset.TimezoneOffsetFromUTC = self.source.timezone

    def _put_equipment(self, dataset: Dataset) -> None:
        dataset.Manufacturer = MANUFACTURER
        dataset.ManufacturerModelName = NODE_MODEL_NAME
        dataset.DeviceSerialNumber = self.context.ae_title
        dataset.SoftwareVersions = self.context.software_version
        if self.options.institution:
            dataset.InstitutionName = self.options.institution
        dataset.ContributingEquipmentSequence = self._contributing_equipment()

    def _contributing_equipment(self) -> list[Dataset]:
        """Scanner, node and model (PS3.3 C.12.1.1.9)."""
        scanner = Dataset()
        scanner.PurposeOfReferenceCodeSequence = [Concept.ACQUISITION_EQUIPMENT.item()]
        scanner.Manufacturer = ""  # type 2 in this sequence's items: present, may be empty
        scanner.update(self.source.equipment)
        node = _processor(NODE_MODEL_NAME, self.context.software_version)
        node.StationName = self.context.ae_title
        node.ContributionDescription = "Received, analysed and reported the series"
        items = [scanner, node] if scanner.Manufacturer else [node]
        for identity in self.models:
            model = _processor(identity.name, identity.version)
            model.DeviceUID = device_uid(identity.sha256)
            model.ContributionDescription = (
                f"Read the series; {identity.training} model, sha256 {identity.sha256}"
            )
            items.append(model)
        return items


def _processor(name: str, version: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [Concept.PROCESSING_EQUIPMENT.item()]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = name
    item.SoftwareVersions = version
    return item
