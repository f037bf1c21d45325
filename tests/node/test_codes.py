"""Every row of the code table, restated by hand."""

from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts

from dicom_node.results.codes import (
    DISEASE,
    LOBE,
    PRIVATE_SCHEME,
    CodeSource,
    Concept,
    coding_scheme_identification,
)
from inference.domain import DiseaseClass, Lobe

# (value, scheme, meaning), copied from docs of PS3.16 and the code lists, not from the table.
EXPECTED = {
    "PROBABILITY": ("122157", "DCM", "Probability"),
    "NO_UNITS": ("1", "UCUM", "no units"),
    "PERCENT": ("%", "UCUM", "Percent"),
    "MILLILITER": ("mL", "UCUM", "milliliter"),
    "MILLIMETER": ("mm", "UCUM", "mm"),
    "PIXELS": ("{pixels}", "UCUM", "pixels"),
    "VOLUME": ("118565006", "SCT", "Volume"),
    "LUNG_INVOLVEMENT": ("LUNG_INVOLV_PCT", "99M3LUNG", "Percentage of lung involved"),
    "LESION_SHARE": ("LESION_SHARE_PCT", "99M3LUNG", "Share of lesion volume"),
    "INVOLVEMENT_CHANGE": (
        "LUNG_INVOLV_DIFF",
        "99M3LUNG",
        "Change of lung involved since a prior study, percentage points",
    ),
    "RELATIVE_CHANGE": (
        "LUNG_INVOLV_REL",
        "99M3LUNG",
        "Change of lung involved, relative to the prior study",
    ),
    "PRIOR_INVOLVEMENT": (
        "LUNG_INVOLV_PRI",
        "99M3LUNG",
        "Percentage of lung involved in the prior study",
    ),
    "SEVERITY_SCORE_CHANGE": (
        "CT_SCORE_DIFF",
        "99M3LUNG",
        "Change of CT severity score since a prior study",
    ),
    "PRIOR_SEVERITY_SCORE": (
        "CT_SCORE_PRIOR",
        "99M3LUNG",
        "CT severity score of five lobes in the prior study",
    ),
    "COMPARISON": ("111424", "DCM", "Comparison to previous studies"),
    "INCREASED": ("35105006", "SCT", "Increased"),
    "DECREASED": ("1250004", "SCT", "Decreased"),
    "NO_CHANGE": ("260388006", "SCT", "No change"),
    "STUDY_DATE": ("111060", "DCM", "Study Date"),
    "STUDY_INSTANCE_UID": ("110180", "DCM", "Study Instance UID"),
    "COVID19": ("840539006", "SCT", "COVID-19"),
    "H1N1": ("442696006", "SCT", "Influenza caused by Influenza A virus subtype H1N1"),
    "CAP": ("385093006", "SCT", "Community acquired pneumonia"),
    "NORMAL": ("17621005", "SCT", "Normal"),
    "OPACITY": ("112001", "DCM", "Opacity"),
    "PATIENT_CLASS": ("PATIENT_CLASS", "99M3LUNG", "Class of the patient"),
    "SLICE_CLASS": ("SLICE_CLASS", "99M3LUNG", "Class of the slice"),
    "SECOND_CLASS": (
        "NONPARAM_CLASS",
        "99M3LUNG",
        "Class of the patient by the non-parametric rule",
    ),
    "SEVERITY_SCORE": ("CT_SCORE_LOBE", "99M3LUNG", "CT severity score of a lobe (0-5)"),
    "TOTAL_SEVERITY_SCORE": (
        "CT_SCORE_TOTAL",
        "99M3LUNG",
        "CT severity score of five lobes (0-25)",
    ),
    "POSITIVE_SLICES": ("POSITIVE_SLICES", "99M3LUNG", "Number of positive slices"),
    "SEVERITY": ("246112005", "SCT", "Severity"),
    "SEVERE": ("24484000", "SCT", "Severe"),
    "NOT_SEVERE": ("NOT_SEVERE", "99M3LUNG", "Not severe"),
    "SEGMENTATION_CLASS": ("JCS_CLASS", "99M3LUNG", "Class of the patient by the joint system"),
    "POSITIVE": ("10828004", "SCT", "Positive"),
    "NEGATIVE": ("260385009", "SCT", "Negative"),
    "UPPER_LOBE": ("45653009", "SCT", "Upper lobe of lung"),
    "RIGHT_MIDDLE_LOBE": ("72481006", "SCT", "Middle lobe of right lung"),
    "LOWER_LOBE": ("90572001", "SCT", "Lower lobe of lung"),
    "ANATOMICAL_STRUCTURE": ("91723000", "SCT", "Anatomical Structure"),
    "LUNG": ("39607008", "SCT", "Lung"),
    "LATERALITY": ("272741003", "SCT", "Laterality"),
    "RIGHT": ("24028007", "SCT", "Right"),
    "LEFT": ("7771000", "SCT", "Left"),
    "BILATERAL": ("51440002", "SCT", "Bilateral"),
    "IMAGING_MEASUREMENT_REPORT": ("126000", "DCM", "Imaging Measurement Report"),
    "LANGUAGE": ("121049", "DCM", "Language of Content Item and Descendants"),
    "ENGLISH": ("en-US", "RFC5646", "English (United States)"),
    "OBSERVER_TYPE": ("121005", "DCM", "Observer Type"),
    "DEVICE": ("121007", "DCM", "Device"),
    "DEVICE_OBSERVER_UID": ("121012", "DCM", "Device Observer UID"),
    "DEVICE_OBSERVER_NAME": ("121013", "DCM", "Device Observer Name"),
    "DEVICE_OBSERVER_MANUFACTURER": ("121014", "DCM", "Device Observer Manufacturer"),
    "DEVICE_OBSERVER_MODEL_NAME": ("121015", "DCM", "Device Observer Model Name"),
    "DEVICE_OBSERVER_SERIAL_NUMBER": ("121016", "DCM", "Device Observer Serial Number"),
    "PROCEDURE_REPORTED": ("121058", "DCM", "Procedure reported"),
    "CT_UNSPECIFIED_BODY_REGION": ("25045-6", "LN", "CT unspecified body region"),
    "IMAGE_LIBRARY": ("111028", "DCM", "Image Library"),
    "IMAGE_LIBRARY_GROUP": ("126200", "DCM", "Image Library Group"),
    "MODALITY": ("121139", "DCM", "Modality"),
    "COMPUTED_TOMOGRAPHY": ("CT", "DCM", "Computed Tomography"),
    "FRAME_OF_REFERENCE_UID": ("112227", "DCM", "Frame of Reference UID"),
    "PIXEL_DATA_ROWS": ("110910", "DCM", "Pixel Data Rows"),
    "PIXEL_DATA_COLUMNS": ("110911", "DCM", "Pixel Data Columns"),
    "HORIZONTAL_PIXEL_SPACING": ("111026", "DCM", "Horizontal Pixel Spacing"),
    "VERTICAL_PIXEL_SPACING": ("111066", "DCM", "Vertical Pixel Spacing"),
    "SPACING_BETWEEN_SLICES": ("112226", "DCM", "Spacing between slices"),
    "IMAGE_POSITION_Z": ("110903", "DCM", "Image Position (Patient) Z"),
    "IMAGING_MEASUREMENTS": ("126010", "DCM", "Imaging Measurements"),
    "MEASUREMENT_GROUP": ("125007", "DCM", "Measurement Group"),
    "TRACKING_IDENTIFIER": ("112039", "DCM", "Tracking Identifier"),
    "TRACKING_UNIQUE_IDENTIFIER": ("112040", "DCM", "Tracking Unique Identifier"),
    "FINDING": ("121071", "DCM", "Finding"),
    "FINDING_SITE": ("363698007", "SCT", "Finding Site"),
    "ALGORITHM_NAME": ("111001", "DCM", "Algorithm Name"),
    "ALGORITHM_VERSION": ("111003", "DCM", "Algorithm Version"),
    "ALGORITHM_PARAMETERS": ("111002", "DCM", "Algorithm Parameters"),
    "SOURCE": ("260753009", "SCT", "Source"),
    "SOURCE_OF_MEASUREMENT": ("121112", "DCM", "Source of Measurement"),
    "QUALITATIVE_EVALUATIONS": ("C0034375", "UMLS", "Qualitative Evaluations"),
    "COMMENT": ("121106", "DCM", "Comment"),
    "SOURCE_IMAGE": ("121322", "DCM", "Source image for image processing operation"),
    "SEGMENTATION": ("113076", "DCM", "Segmentation"),
    "ARTIFICIAL_INTELLIGENCE": ("123110", "DCM", "Artificial Intelligence"),
    "MORPHOLOGICALLY_ABNORMAL": ("49755003", "SCT", "Morphologically Abnormal Structure"),
    "OF_INTEREST": ("113000", "DCM", "Of Interest"),
    "KEY_OBJECT_DESCRIPTION": ("113012", "DCM", "Key Object Description"),
    "ACQUISITION_EQUIPMENT": ("109101", "DCM", "Acquisition Equipment"),
    "PROCESSING_EQUIPMENT": ("109102", "DCM", "Processing Equipment"),
}
DICTIONARY = {
    (scheme, value): meaning
    for scheme, keywords in concepts.items()
    for values in keywords.values()
    for value, (meaning, _) in values.items()
}
# In PS3.16 but not, or with the longer SNOMED CT term, in pydicom's dictionary.
NOT_IN_DICTIONARY = {"MILLILITER", "PIXELS", "ENGLISH", "QUALITATIVE_EVALUATIONS"}
LONGER_TERM = {
    "NO_CHANGE": "No status change (qualifier value)",
    "SEVERITY": "Severity (attribute)",
    "SEVERE": "Severe (severity modifier) (qualifier value)",
    "RIGHT_MIDDLE_LOBE": "Structure of middle lobe of right lung (body structure)",
    "LOWER_LOBE": "Structure of lower lobe of lung (body structure)",
    "VOLUME": "Volume (property) (qualifier value)",
    "LUNG": "Lung structure (body structure)",
    "BILATERAL": "Right and left (qualifier value)",
    "SOURCE": "Source (attribute)",
}


@pytest.mark.parametrize("concept", Concept, ids=lambda concept: concept.name)
def test_row_is_the_expected_code(concept: Concept) -> None:
    item = concept.item()
    written = (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
    assert written == EXPECTED[concept.name]
    assert len(item.CodeValue) <= 16  # VR SH
    assert len(item.CodeMeaning) <= 64  # VR LO


@pytest.mark.parametrize(
    "concept",
    [concept for concept in Concept if concept.source == CodeSource.DICOM],
    ids=lambda concept: concept.name,
)
def test_row_from_dicom_stands_in_the_dictionary(concept: Concept) -> None:
    meaning = DICTIONARY.get((concept.scheme, concept.code_value))
    if concept.name in NOT_IN_DICTIONARY:
        assert meaning is None
    else:
        assert meaning == LONGER_TERM.get(concept.name, concept.meaning)


def test_no_row_is_missing_or_left_over() -> None:
    assert {concept.name for concept in Concept} == set(EXPECTED)


def test_two_rows_never_share_a_code() -> None:
    assert len({(concept.scheme, concept.code_value) for concept in Concept}) == len(Concept)


def test_private_rows_and_only_they_use_the_private_scheme() -> None:
    for concept in Concept:
        assert (concept.source == CodeSource.PRIVATE) == (concept.scheme == PRIVATE_SCHEME)
    assert coding_scheme_identification().CodingSchemeDesignator == PRIVATE_SCHEME


def test_what_no_terminology_server_confirmed_says_so() -> None:
    assert {c for c in Concept if c.source == CodeSource.CODE_LIST} == {
        *(Concept.H1N1, Concept.CAP, Concept.INCREASED)
    }


def test_every_lobe_has_a_code_and_a_side() -> None:
    assert list(LOBE) == list(Lobe)
    for lobe, (concept, side) in LOBE.items():
        if side is None:
            assert "right" in concept.meaning
        else:
            assert side is (Concept.RIGHT if lobe.is_right else Concept.LEFT)


def test_every_class_has_a_code() -> None:
    assert DISEASE == {
        DiseaseClass.HEALTHY: Concept.NORMAL,
        DiseaseClass.COVID19: Concept.COVID19,
        DiseaseClass.H1N1: Concept.H1N1,
        DiseaseClass.CAP: Concept.CAP,
    }
