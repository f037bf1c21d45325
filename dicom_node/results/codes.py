"""Every code that the results use: one table, one test per row.

``Concept.PROBABILITY.item()`` is the Code Sequence Item (PS3.3 §8.8) ready to be put in a dataset.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pydicom.dataset import Dataset

from inference.domain import DiseaseClass, Lobe

__all__ = [
    "DISEASE",
    "LOBE",
    "PRIVATE_SCHEME",
    "CodeSource",
    "Concept",
    "coding_scheme_identification",
]

PRIVATE_SCHEME = "99M3LUNG"
"""Coding scheme of what no public list has a code for; private ones start with 99 (PS3.16 §8.2)."""


class CodeSource(enum.StrEnum):
    """Where a row was taken from."""

    DICOM = "PS3.16: DICOM Controlled Terminology (Annex D) or a context group"
    SNOMED_CT = "SNOMED CT, looked up in a public terminology server"
    CODE_LIST = "public code lists of SNOMED CT; not confirmed by a terminology server"
    PRIVATE = "this project"


@dataclass(frozen=True, slots=True)
class _Row:
    value: str
    scheme: str
    meaning: str
    source: CodeSource = CodeSource.DICOM


class Concept(enum.Enum):
    """The table. A row is (value, scheme, meaning, source)."""

    # measurements and units
    PROBABILITY = _Row("122157", "DCM", "Probability")
    NO_UNITS = _Row("1", "UCUM", "no units")
    PERCENT = _Row("%", "UCUM", "Percent")
    MILLILITER = _Row("mL", "UCUM", "milliliter")
    MILLIMETER = _Row("mm", "UCUM", "mm")
    PIXELS = _Row("{pixels}", "UCUM", "pixels")
    VOLUME = _Row("118565006", "SCT", "Volume")
    LUNG_INVOLVEMENT = _Row(
        "LUNG_INVOLV_PCT", PRIVATE_SCHEME, "Percentage of lung involved", CodeSource.PRIVATE
    )
    LESION_SHARE = _Row(
        "LESION_SHARE_PCT", PRIVATE_SCHEME, "Share of lesion volume", CodeSource.PRIVATE
    )

    SEVERITY_SCORE = _Row(
        "CT_SCORE_LOBE", PRIVATE_SCHEME, "CT severity score of a lobe (0-5)", CodeSource.PRIVATE
    )
    TOTAL_SEVERITY_SCORE = _Row(
        "CT_SCORE_TOTAL",
        PRIVATE_SCHEME,
        "CT severity score of five lobes (0-25)",
        CodeSource.PRIVATE,
    )
    POSITIVE_SLICES = _Row(
        "POSITIVE_SLICES", PRIVATE_SCHEME, "Number of positive slices", CodeSource.PRIVATE
    )
    INVOLVEMENT_CHANGE = _Row(
        "LUNG_INVOLV_DIFF",
        PRIVATE_SCHEME,
        "Change of lung involved since a prior study, percentage points",
        CodeSource.PRIVATE,
    )
    RELATIVE_CHANGE = _Row(
        "LUNG_INVOLV_REL",
        PRIVATE_SCHEME,
        "Change of lung involved, relative to the prior study",
        CodeSource.PRIVATE,
    )
    PRIOR_INVOLVEMENT = _Row(
        "LUNG_INVOLV_PRI",
        PRIVATE_SCHEME,
        "Percentage of lung involved in the prior study",
        CodeSource.PRIVATE,
    )
    SEVERITY_SCORE_CHANGE = _Row(
        "CT_SCORE_DIFF",
        PRIVATE_SCHEME,
        "Change of CT severity score since a prior study",
        CodeSource.PRIVATE,
    )
    PRIOR_SEVERITY_SCORE = _Row(
        "CT_SCORE_PRIOR",
        PRIVATE_SCHEME,
        "CT severity score of five lobes in the prior study",
        CodeSource.PRIVATE,
    )

    # the comparison with a prior study
    COMPARISON = _Row("111424", "DCM", "Comparison to previous studies")
    INCREASED = _Row("35105006", "SCT", "Increased", CodeSource.CODE_LIST)
    DECREASED = _Row("1250004", "SCT", "Decreased")
    NO_CHANGE = _Row("260388006", "SCT", "No change")
    STUDY_DATE = _Row("111060", "DCM", "Study Date")
    STUDY_INSTANCE_UID = _Row("110180", "DCM", "Study Instance UID")

    # classes
    COVID19 = _Row("840539006", "SCT", "COVID-19", CodeSource.SNOMED_CT)
    H1N1 = _Row(
        "442696006",
        "SCT",
        "Influenza caused by Influenza A virus subtype H1N1",
        CodeSource.CODE_LIST,
    )
    CAP = _Row("385093006", "SCT", "Community acquired pneumonia", CodeSource.CODE_LIST)
    NORMAL = _Row("17621005", "SCT", "Normal")
    OPACITY = _Row("112001", "DCM", "Opacity")
    PATIENT_CLASS = _Row(
        "PATIENT_CLASS", PRIVATE_SCHEME, "Class of the patient", CodeSource.PRIVATE
    )
    SLICE_CLASS = _Row("SLICE_CLASS", PRIVATE_SCHEME, "Class of the slice", CodeSource.PRIVATE)
    SECOND_CLASS = _Row(
        "NONPARAM_CLASS",
        PRIVATE_SCHEME,
        "Class of the patient by the non-parametric rule",
        CodeSource.PRIVATE,
    )

    SEVERITY = _Row("246112005", "SCT", "Severity")
    SEVERE = _Row("24484000", "SCT", "Severe")
    NOT_SEVERE = _Row("NOT_SEVERE", PRIVATE_SCHEME, "Not severe", CodeSource.PRIVATE)
    SEGMENTATION_CLASS = _Row(
        "JCS_CLASS",
        PRIVATE_SCHEME,
        "Class of the patient by the joint system",
        CodeSource.PRIVATE,
    )
    POSITIVE = _Row("10828004", "SCT", "Positive")
    NEGATIVE = _Row("260385009", "SCT", "Negative")

    # anatomy
    UPPER_LOBE = _Row("45653009", "SCT", "Upper lobe of lung")
    RIGHT_MIDDLE_LOBE = _Row("72481006", "SCT", "Middle lobe of right lung")
    LOWER_LOBE = _Row("90572001", "SCT", "Lower lobe of lung")
    ANATOMICAL_STRUCTURE = _Row("91723000", "SCT", "Anatomical Structure")
    LUNG = _Row("39607008", "SCT", "Lung")
    LATERALITY = _Row("272741003", "SCT", "Laterality")
    RIGHT = _Row("24028007", "SCT", "Right")
    LEFT = _Row("7771000", "SCT", "Left")
    BILATERAL = _Row("51440002", "SCT", "Bilateral")

    # structure of the report (TID 1500, 1501, 1600, 1602, 4019)
    IMAGING_MEASUREMENT_REPORT = _Row("126000", "DCM", "Imaging Measurement Report")
    LANGUAGE = _Row("121049", "DCM", "Language of Content Item and Descendants")
    ENGLISH = _Row("en-US", "RFC5646", "English (United States)")
    OBSERVER_TYPE = _Row("121005", "DCM", "Observer Type")
    DEVICE = _Row("121007", "DCM", "Device")
    DEVICE_OBSERVER_UID = _Row("121012", "DCM", "Device Observer UID")
    DEVICE_OBSERVER_NAME = _Row("121013", "DCM", "Device Observer Name")
    DEVICE_OBSERVER_MANUFACTURER = _Row("121014", "DCM", "Device Observer Manufacturer")
    DEVICE_OBSERVER_MODEL_NAME = _Row("121015", "DCM", "Device Observer Model Name")
    DEVICE_OBSERVER_SERIAL_NUMBER = _Row("121016", "DCM", "Device Observer Serial Number")
    PROCEDURE_REPORTED = _Row("121058", "DCM", "Procedure reported")
    CT_UNSPECIFIED_BODY_REGION = _Row("25045-6", "LN", "CT unspecified body region")
    IMAGE_LIBRARY = _Row("111028", "DCM", "Image Library")
    IMAGE_LIBRARY_GROUP = _Row("126200", "DCM", "Image Library Group")
    MODALITY = _Row("121139", "DCM", "Modality")
    COMPUTED_TOMOGRAPHY = _Row("CT", "DCM", "Computed Tomography")
    FRAME_OF_REFERENCE_UID = _Row("112227", "DCM", "Frame of Reference UID")
    PIXEL_DATA_ROWS = _Row("110910", "DCM", "Pixel Data Rows")
    PIXEL_DATA_COLUMNS = _Row("110911", "DCM", "Pixel Data Columns")
    HORIZONTAL_PIXEL_SPACING = _Row("111026", "DCM", "Horizontal Pixel Spacing")
    VERTICAL_PIXEL_SPACING = _Row("111066", "DCM", "Vertical Pixel Spacing")
    SPACING_BETWEEN_SLICES = _Row("112226", "DCM", "Spacing between slices")
    IMAGE_POSITION_Z = _Row("110903", "DCM", "Image Position (Patient) Z")
    IMAGING_MEASUREMENTS = _Row("126010", "DCM", "Imaging Measurements")
    MEASUREMENT_GROUP = _Row("125007", "DCM", "Measurement Group")
    TRACKING_IDENTIFIER = _Row("112039", "DCM", "Tracking Identifier")
    TRACKING_UNIQUE_IDENTIFIER = _Row("112040", "DCM", "Tracking Unique Identifier")
    FINDING = _Row("121071", "DCM", "Finding")
    FINDING_SITE = _Row("363698007", "SCT", "Finding Site")
    ALGORITHM_NAME = _Row("111001", "DCM", "Algorithm Name")
    ALGORITHM_VERSION = _Row("111003", "DCM", "Algorithm Version")
    ALGORITHM_PARAMETERS = _Row("111002", "DCM", "Algorithm Parameters")
    SOURCE = _Row("260753009", "SCT", "Source")
    SOURCE_OF_MEASUREMENT = _Row("121112", "DCM", "Source of Measurement")
    QUALITATIVE_EVALUATIONS = _Row("C0034375", "UMLS", "Qualitative Evaluations")
    COMMENT = _Row("121106", "DCM", "Comment")

    # images, SEG and KOS
    SOURCE_IMAGE = _Row("121322", "DCM", "Source image for image processing operation")
    SEGMENTATION = _Row("113076", "DCM", "Segmentation")
    ARTIFICIAL_INTELLIGENCE = _Row("123110", "DCM", "Artificial Intelligence")
    MORPHOLOGICALLY_ABNORMAL = _Row("49755003", "SCT", "Morphologically Abnormal Structure")
    OF_INTEREST = _Row("113000", "DCM", "Of Interest")
    KEY_OBJECT_DESCRIPTION = _Row("113012", "DCM", "Key Object Description")

    # equipment (CID 7005)
    ACQUISITION_EQUIPMENT = _Row("109101", "DCM", "Acquisition Equipment")
    PROCESSING_EQUIPMENT = _Row("109102", "DCM", "Processing Equipment")

    @property
    def code_value(self) -> str:
        """Code Value (0008,0100)."""
        return self.value.value

    @property
    def scheme(self) -> str:
        """Coding Scheme Designator (0008,0102)."""
        return self.value.scheme

    @property
    def meaning(self) -> str:
        """Code Meaning (0008,0104), at most 64 characters."""
        return self.value.meaning

    @property
    def source(self) -> CodeSource:
        """Where the row was taken from."""
        return self.value.source

    def item(self) -> Dataset:
        """Return a fresh Code Sequence Item (PS3.3 Table 8.8-1)."""
        item = Dataset()
        item.CodeValue = self.code_value
        item.CodingSchemeDesignator = self.scheme
        item.CodeMeaning = self.meaning
        return item


DISEASE = {
    DiseaseClass.HEALTHY: Concept.NORMAL,
    DiseaseClass.COVID19: Concept.COVID19,
    DiseaseClass.H1N1: Concept.H1N1,
    DiseaseClass.CAP: Concept.CAP,
}
"""The code of each class."""

LOBE: dict[Lobe, tuple[Concept, Concept | None]] = {
    Lobe.RIGHT_UPPER: (Concept.UPPER_LOBE, Concept.RIGHT),
    Lobe.RIGHT_MIDDLE: (Concept.RIGHT_MIDDLE_LOBE, None),
    Lobe.RIGHT_LOWER: (Concept.LOWER_LOBE, Concept.RIGHT),
    Lobe.LEFT_UPPER: (Concept.UPPER_LOBE, Concept.LEFT),
    Lobe.LEFT_LOWER: (Concept.LOWER_LOBE, Concept.LEFT),
}
"""Code and side of each lobe; the middle lobe's code says its side itself."""


def coding_scheme_identification() -> Dataset:
    """Return the item that says what ``99M3LUNG`` is (PS3.3 C.12.1.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = "m3lung-node private codes"
    item.CodingSchemeVersion = "1"
    item.CodingSchemeResponsibleOrganization = "m3lung-node project"
    return item
