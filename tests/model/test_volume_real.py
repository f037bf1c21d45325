"""Series to volume on real files: vendors, transfer syntaxes, and what must be refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import LegacyConvertedEnhancedCTImageStorage

from inference.domain import QualityCode
from inference.errors import SeriesError, UndecodablePixels, UnusableGeometry
from inference.volume import load_volume

pytestmark = pytest.mark.real_data

SYNTAXES = "cornerstone-transfer-syntaxes"


def test_p001_is_148_slices_of_2_mm_from_head_to_foot(p001, series):
    assert p001.hu.shape == (148, 512, 512)
    assert p001.slice_spacing_mm == pytest.approx(2.0)
    assert np.all(np.diff(p001.z_mm) < 0)
    assert p001.quality == ()
    # independently: the file with the greatest z, rescaled by hand
    headers = {path: dcmread(path) for path in series("covid-ct-md/covid/P001")}
    top = max(headers.values(), key=lambda header: header.ImagePositionPatient[2])
    assert p001.slices[0].sop_instance_uid == top.SOPInstanceUID
    assert np.array_equal(p001.hu[0], np.clip(top.pixel_array.astype(int) - 1024, -1024, 3071))


def test_shuffled_files_give_the_same_volume(p001, series):
    paths = series("covid-ct-md/covid/P001")
    random.Random(1).shuffle(paths)
    volume = load_volume(paths, threads=3)
    assert np.array_equal(volume.hu, p001.hu)
    assert volume.slices == p001.slices


LOSSLESS = [
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
]  # fmt: skip


def syntax_file(real_data: Path, uid: str) -> Path:
    (path,) = (real_data / SYNTAXES).glob(f"CTImage*_{uid}.dcm")
    return path


@pytest.mark.parametrize("uid", LOSSLESS)
def test_every_lossless_syntax_gives_the_same_hu(real_data, uid):
    reference = load_volume([real_data / SYNTAXES / "CTImage.dcm"])
    volume = load_volume([syntax_file(real_data, uid)])
    assert np.array_equal(volume.hu, reference.hu)
    assert volume.quality == ()
    assert reference.hu.min() == -1024  # GE's -2000 outside the field of view is -3024 HU


@pytest.mark.parametrize(
    ("uid", "tolerance_hu"),
    [
        ("1.2.840.10008.1.2.4.81", 1),
        ("1.2.840.10008.1.2.4.91", 5),
        ("1.2.840.10008.1.2.4.50", 64),  # 8 bits: two steps of 32 HU
    ],
)
def test_lossy_syntaxes_come_near_and_say_so(real_data, uid, tolerance_hu):
    reference = load_volume([real_data / SYNTAXES / "CTImage.dcm"]).hu.astype(int)
    volume = load_volume([syntax_file(real_data, uid)])
    assert [s.code for s in volume.quality] == [QualityCode.LOSSY_COMPRESSION]
    difference = np.abs(volume.hu - reference)
    assert difference.max() <= tolerance_hu


@pytest.mark.parametrize("number", [".51", ".53", ".55"])
def test_syntaxes_without_a_decoder_are_refused_by_name(real_data, number):
    path = syntax_file(real_data, "1.2.840.10008.1.2.4" + number)
    with pytest.raises(UndecodablePixels, match="JPEG") as caught:
        load_volume([path])
    assert "MISTER" not in caught.value.reason


def test_ge_padding_is_air(real_data):
    path = real_data / "covid-19-ny-sbu" / "A048383_axial_19010410-30.dcm"
    stored = dcmread(path).pixel_array
    volume = load_volume([path])
    assert (stored == -2000).sum() > 10_000
    assert np.all(volume.hu[0][stored == -2000] == -1024)


def test_toshiba_stores_hu(real_data):
    path = real_data / "covid-19-ny-sbu" / "A098752_axial_19001231-32.dcm"
    stored = dcmread(path).pixel_array
    assert np.array_equal(load_volume([path]).hu[0], np.clip(stored, -1024, 3071))


@pytest.mark.parametrize(
    ("folder", "slices", "spacing_mm", "codes"),
    [
        ("lung-pet-ct-dx/siemens_A0002_B40f", 8, 8.0, [QualityCode.THICK_SLICES]),
        ("lung-pet-ct-dx/philips_A0001_5mm_part", 6, 5.0, []),
        ("lungmask-testdata", 2, 1.0, []),  # no Modality
    ],
)
def test_other_vendors(series, folder, slices, spacing_mm, codes):
    volume = load_volume(series(folder))
    assert len(volume) == slices
    assert volume.slice_spacing_mm == pytest.approx(spacing_mm)
    assert [statement.code for statement in volume.quality] == codes
    assert -900 < np.median(volume.hu[:, 200:300, 100:180]) < 200


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("covid-19-ny-sbu/A098752_coronal_reformat_19001231-053.dcm",
         UnusableGeometry, "not axial"),
        ("non-chest-negatives/fo-dicom_GH342_philips_surview_localizer.dcm",
         UnusableGeometry, "localizer"),
        ("non-chest-negatives/fo-dicom_GH178_ge_dose_report_secondary_capture.dcm",
         UnusableGeometry, "where it lies"),
        ("cornerstone-transfer-syntaxes/no-pixel-data.dcm", SeriesError, "SR, not CT"),
        ("cornerstone-transfer-syntaxes/no-pixel-spacing.dcm", SeriesError, "US, not CT"),
        ("covid-ct-md/duplicate_sop_uid/P002/0000.dcm", SeriesError, "no SOP Instance UID"),
    ],
)  # fmt: skip
def test_what_is_no_axial_ct_is_refused(real_data, path, kind, words):
    with pytest.raises(kind, match=words):
        load_volume([real_data / path])


def test_every_malformed_file_ends_in_a_volume_or_a_reason(real_data):
    paths = sorted(p for p in (real_data / "malformed").rglob("*") if p.is_file())
    assert len(paths) > 100
    reasons = {}
    for path in paths:
        try:
            load_volume([path])
        except SeriesError as error:
            reasons[path] = error.reason
    assert 0 < len(reasons) < len(paths)
    assert all(reason.endswith(".") for reason in reasons.values())


@pytest.mark.filterwarnings("ignore:The string:UserWarning")  # on the patient's name
def test_legacy_converted_enhanced_ct(series, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    paths = series("lung-pet-ct-dx/siemens_A0002_B40f")
    converted = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [dcmread(path) for path in paths],
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
    )
    converted.save_as(tmp_path / "converted.dcm")
    volume, reference = load_volume([tmp_path / "converted.dcm"]), load_volume(paths)
    assert np.array_equal(volume.hu, reference.hu)
    assert np.allclose(volume.z_mm, reference.z_mm)
    assert {s.sop_class_uid for s in volume.slices} == {LegacyConvertedEnhancedCTImageStorage}
