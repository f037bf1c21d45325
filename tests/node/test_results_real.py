"""Results of the real series: geometry, completeness, and what the validators say."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.domain import ObjectKind
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.key_slices import lesion_slices
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.result_set import ResultSet
from dicom_node.results.segmentation import lesion_mask
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from support.made_findings import made_findings, made_volume

CONTEXT = ResultContext(
    "1" * 64,
    "2" * 64,
    datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
    Completeness("quiet for 60 s", 60),
    "0.1.0",
    "M3LUNG",
)

pytestmark = pytest.mark.real_data


@pytest.mark.slow
@pytest.mark.peer("dciodvfy")
def test_real_series_gives_valid_results_on_its_own_geometry(
    real_data: Path, tmp_path: Path
) -> None:
    files = sorted((real_data / "covid-ct-md/covid/P001").glob("*.dcm"))
    by_height = sorted(
        files, key=lambda path: -float(dcmread(path, stop_before_pixels=True).SliceLocation)
    )
    paths = by_height[40:100:3]  # from the carina to the dome of the diaphragm
    volume = made_volume(paths)
    findings = made_findings(volume)
    source = SourceSeries.read(paths)
    written = write_results(findings, volume, source, tmp_path, ResultOptions(), CONTEXT)
    assert {item.kind for item in written} == set(ObjectKind)
    assert source.modules.PatientID == "P001"
    for item in written:
        run = subprocess.run(
            ["dciodvfy", tmp_path / item.path], capture_output=True, text=True, check=False
        )
        assert "Error" not in run.stdout + run.stderr, item.path
    segmentation = highdicom.seg.segread(tmp_path / "segmentation.dcm")
    pixels = segmentation.get_pixels_by_source_instance(
        [reference.sop_instance_uid for reference in volume.slices],
        ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )
    assert (pixels[..., 0].astype(bool) == lesion_mask(findings)).all()
    for index in lesion_slices(findings):
        overlay = dcmread(tmp_path / f"overlay/{index + 1:04d}.dcm")
        assert np.allclose(overlay.ImagePositionPatient, volume.positions_mm[index])
        assert np.allclose(overlay.PixelSpacing, volume.pixel_spacing_mm)
    painter = OverlayPainter(
        findings, volume, ResultSet(source, findings.model, CONTEXT, ResultOptions())
    )
    for index in range(len(volume)):
        annotated = (painter.paint(index) != painter.blend(index)).any(axis=2)
        assert not (annotated & findings.lung_mask[index]).any()


def test_real_file_without_modality_and_patient_gives_whole_results(
    real_data: Path, tmp_path: Path
) -> None:
    """One slice that lacks Modality, patient name and study date."""
    paths = [real_data / "lungmask-testdata/0.dcm"]
    volume = made_volume(paths)
    findings = made_findings(volume, patient=False)
    source = SourceSeries.read(paths)
    written = write_results(findings, volume, source, tmp_path, ResultOptions(), CONTEXT)
    assert {ObjectKind.REPORT, ObjectKind.SUMMARY} <= {item.kind for item in written}
    for item in written:
        dataset = dcmread(tmp_path / item.path)
        assert dataset.StudyInstanceUID == source.study_instance_uid
        assert dataset.PatientName == ""
