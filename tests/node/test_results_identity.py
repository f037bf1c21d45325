"""UIDs: the same reading, the same UID; another reading, another UID."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.domain import ObjectKind, is_legal_uid
from dicom_node.results.identity import ResultIdentity, device_uid, uid_of

BASE = ResultIdentity("1.2.3", "instances", "weights", "configuration")
SC = "1.2.840.10008.5.1.4.1.1.7"


def test_uids_are_fixed_for_ever() -> None:
    """A change here gives every stored result another identity: never without a decision."""
    assert BASE.instance_uid(ObjectKind.OVERLAY, SC, "1.2.3.4/1") == (
        "2.25.278976072638230356270328041305136436798"
    )
    assert BASE.series_uid(ObjectKind.OVERLAY) == "2.25.134025255269742326682503796539986020737"
    assert device_uid("weights") == "2.25.326509534679478855903240749720261646996"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ResultIdentity)])
def test_everything_that_decides_the_content_decides_the_uid(field: str) -> None:
    other = dataclasses.replace(BASE, **{field: "another"})
    assert other.series_uid(ObjectKind.REPORT) != BASE.series_uid(ObjectKind.REPORT)
    assert other.instance_uid(ObjectKind.REPORT, SC) != BASE.instance_uid(ObjectKind.REPORT, SC)


def test_kind_sop_class_and_source_image_decide_too() -> None:
    uids = {
        BASE.instance_uid(kind, sop_class, of)
        for kind in ObjectKind
        for sop_class in (SC, "1.2.840.10008.5.1.4.1.1.88.34")
        for of in ("", "1.2.3.4/1", "1.2.3.4/2")
    }
    assert len(uids) == len(ObjectKind) * 2 * 3


def test_tracking_uid_outlives_revision_model_and_configuration() -> None:
    later = ResultIdentity("1.2.3", "more instances", "other weights", "other configuration")
    assert later.tracking_uid("patient/covid19") == BASE.tracking_uid("patient/covid19")
    assert BASE.tracking_uid("patient/covid19") != BASE.tracking_uid("patient/cap")
    other_series = dataclasses.replace(BASE, series_instance_uid="1.2.4")
    assert other_series.tracking_uid("patient/cap") != BASE.tracking_uid("patient/cap")


@given(st.lists(st.text(max_size=70), min_size=1, max_size=8))
def test_every_uid_is_legal(parts: list[str]) -> None:
    assert is_legal_uid(uid_of(*parts))
