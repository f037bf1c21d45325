"""Cohorts: the CSV, its checks, the split, the cache and the way from a PACS."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dicom_node.cli import cohort as cohort_cli
from dicom_node.settings import NodeSettings, Peer
from inference.analyzer import Analyzer
from inference.bundle import make_untrained_bundle
from inference.domain import DiseaseClass
from inference.engine import SliceReadings
from inference.lung_crop import CropParameters
from inference.slice_net import SliceNetParameters
from inference.volume import load_volume
from support.orthanc import Orthanc
from support.ports import free_port
from training.cohort import (
    Cohort,
    CohortCache,
    build_cache,
    check_cohort,
    read_cohort,
    read_split,
    split_patients,
    write_split,
)
from training.cohort.cache_build import network_view
from training.cohort.retrieval import pull_cohort
from training.errors import CacheError, CohortError
from training.phantom import write_simple_series

ROWS, SLICES, SLICE_MM = 96, 20, 12.0
CROP = CropParameters(input_size=64)
HEADER = "patient_id,series_path,label,slice_labels,truth_path"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three healthy people and three with lesions, one folder each: a0 … a2, b0 … b2."""
    root = tmp_path_factory.mktemp("series")
    for seed in range(3):
        for name, lesions in (("a", False), ("b", True)):
            write_simple_series(
                root / f"{name}{seed}",
                seed=100 * lesions + seed,
                slices=SLICES,
                rows=ROWS,
                slice_mm=SLICE_MM,
                lesions=lesions,
            )
    return root


def write_csv(folder: Path, *rows: str, header: str = HEADER) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / "cohort.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def good_rows(series: Path) -> list[str]:
    return [
        f"{name}{seed},{series / f'{name}{seed}'},{label},,"
        for name, label in (("a", "healthy"), ("b", "covid19"))
        for seed in range(3)
    ]


@pytest.fixture
def cohort(series: Path, tmp_path: Path) -> Cohort:
    return read_cohort(write_csv(tmp_path / "cohort", *good_rows(series)))


# The CSV ----------------------------------------------------------------------------------------


def test_rows_and_relative_paths(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "p1,cases/p1,cap,labels.csv,cases/t1", "p2,cases/p2,h1n1,,")
    first, second = read_cohort(file).rows
    assert first.series_path == tmp_path / "cases/p1"
    assert first.slice_labels == tmp_path / "labels.csv"
    assert (first.label, first.number, second.number) == (DiseaseClass.CAP, 2, 3)
    assert second.slice_labels is None
    assert second.truth_path is None


@pytest.mark.parametrize(
    ("rows", "row", "words"),
    [
        (["p1,x,influenza,,"], 2, "unknown label 'influenza'"),
        (["p1,x,cap,,", ",y,cap,,"], 3, "patient_id is empty"),
        (["p1,x,cap,,", "p1,y,cap,,"], 3, "stands in row 2 already"),
        (["p1,x,cap,,", "p2,x/../x,cap,,"], 3, "row 2 has the same series"),
        ([], None, "holds no patient"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: list[str], row: int | None, words: str) -> None:
    with pytest.raises(CohortError, match=r"cohort\.csv") as caught:
        read_cohort(write_csv(tmp_path, *rows))
    assert caught.value.row == row
    assert words in str(caught.value)


def test_a_missing_column_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="column label is missing"):
        read_cohort(write_csv(tmp_path, "p1,x", header="patient_id,series_path"))
    with pytest.raises(CohortError, match=r"absent\.csv: cannot be read"):
        read_cohort(tmp_path / "absent.csv")


def test_digest_follows_labels_not_the_place(tmp_path: Path) -> None:
    digests = []
    for number, label in enumerate(("cap", "cap", "h1n1")):
        digests.append(read_cohort(write_csv(tmp_path / str(number), f"p1,x,{label},,")).sha256)
    assert digests[0] == digests[1] != digests[2]


# All problems at once ---------------------------------------------------------------------------


def test_a_good_cohort_has_no_fatal_problem(cohort: Cohort) -> None:
    _, problems = check_cohort(cohort.file)
    assert not [one for one in problems if one.fatal]
    assert {one.text for one in problems} == {
        "the class h1n1 has no patient",
        "the class cap has no patient",
    }


def test_every_problem_is_listed_with_its_row(series: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(series / "a0", damaged)
    (damaged / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    copied = tmp_path / "copied"
    shutil.copytree(series / "b0", copied)
    short = tmp_path / "short"
    write_simple_series(short, seed=77, slices=4, rows=ROWS, slice_mm=SLICE_MM)
    two = tmp_path / "two"
    shutil.copytree(series / "a1", two / "1")
    shutil.copytree(series / "a2", two / "2")
    labels = tmp_path / "labels.csv"
    labels.write_text("sop_instance_uid,lesion\n1.2.3,1\n1.2.4,maybe\n")
    file = write_csv(
        tmp_path,
        f"p1,{damaged},healthy,,",
        f"p2,{series / 'b0'},covid19,,",
        f"p3,{copied},covid19,,",
        f"p4,{tmp_path / 'absent'},cap,,",
        f"p5,{short},h1n1,{labels},",
        f"p6,{two},healthy,,",
        f"p7,{series / 'b1'},flu,,",
    )
    _, problems = check_cohort(file)
    found = {(one.row, word) for one in problems for word in one.text.split()} | {
        (one.row, one.text) for one in problems
    }
    assert (2, "unreadable") in found
    assert (2, "broken.dcm:") in found
    assert any(
        row == 4 and "row 3 has the same series" in text and "SeriesInstanceUID" in text
        for row, text in found
    )
    assert any(row == 5 and "there is no folder" in text for row, text in found)
    assert any(row == 6 and "no suitable series" in text for row, text in found)
    assert any(row == 6 and "lesion is 'maybe'" in text for row, text in found)
    assert any(row == 7 and "2 suitable series" in text for row, text in found)
    assert any(row == 8 and "unknown label 'flu'" in text for row, text in found)
    assert any(row == 0 and "too few to be split" in text for row, text in found)
    result = CliRunner().invoke(cohort_cli.app, ["check", str(file), "--json"])
    assert result.exit_code == 1
    listed = json.loads(result.stdout)["problems"]
    assert {one["row"] for one in listed} >= {2, 4, 5, 6, 7, 8}


def test_one_person_in_two_parts_is_leakage(series: Path, tmp_path: Path) -> None:
    # The same PatientID in the images, another series: a second study of the same person.
    again = tmp_path / "again"
    write_simple_series(again, seed=0, slices=SLICES + 1, rows=ROWS, slice_mm=SLICE_MM)
    file = write_csv(tmp_path, f"p1,{series / 'a0'},healthy,,", f"p2,{again},covid19,,")
    cohort = read_cohort(file)
    split_file = tmp_path / "split.csv"
    split_file.write_text("patient_id,label,split\np1,healthy,train\np2,covid19,test\n")
    _, problems = check_cohort(file, read_split(split_file, cohort))
    leaks = [one for one in problems if "leakage" in one.text]
    assert [(one.row, one.fatal) for one in leaks] == [(3, True)]
    assert any("healthy has no validation case" in one.text for one in problems)
    split_file.write_text("patient_id,split\np1,train\np2,test\np1,validation\n")
    with pytest.raises(CohortError, match=r"row 4: leakage: patient 'p1'"):
        read_split(split_file, cohort)


# The split --------------------------------------------------------------------------------------


def test_split_is_stratified_seeded_and_saved(tmp_path: Path) -> None:
    rows = [f"{label}{n},s/{label}{n},{label},," for label in ("healthy", "cap") for n in range(40)]
    cohort = read_cohort(write_csv(tmp_path, *rows))
    split = split_patients(cohort, seed=3)
    counts = split.counts(cohort)
    assert counts[DiseaseClass.HEALTHY] == {"train": 28, "validation": 4, "test": 8}
    assert counts[DiseaseClass.CAP] == {"train": 28, "validation": 4, "test": 8}
    assert split_patients(cohort, seed=3).parts == split.parts
    assert split_patients(cohort, seed=4).parts != split.parts
    reordered = read_cohort(write_csv(tmp_path / "other", *reversed(rows)))
    assert split_patients(reordered, seed=3).parts == split.parts
    write_split(tmp_path / "split.csv", cohort, split)
    assert read_split(tmp_path / "split.csv", cohort).parts == split.parts


def test_a_class_too_small_to_validate_is_refused(tmp_path: Path) -> None:
    rows = [f"h{n},s/{n},healthy,," for n in range(5)] + ["c1,s/c1,cap,,", "c2,s/c2,cap,,"]
    cohort = read_cohort(write_csv(tmp_path, *rows))
    with pytest.raises(CohortError, match="class cap has 2 patients"):
        split_patients(cohort)
    text = "patient_id,split\n" + "".join(
        f"h{n},{'validation' if n else 'train'}\n" for n in range(5)
    )
    (tmp_path / "split.csv").write_text(text + "c1,train\nc2,test\n")
    split = read_split(tmp_path / "split.csv", cohort)
    with pytest.raises(CohortError, match="class cap has no validation case"):
        build_cache(cohort, split, tmp_path / "cache", CROP)


# The cache --------------------------------------------------------------------------------------


def test_cache_holds_what_the_network_would_be_shown(cohort: Cohort, tmp_path: Path) -> None:
    split = split_patients(cohort)
    out = tmp_path / "cache"
    seen: list[tuple[str, int, int]] = []
    build_cache(cohort, split, out, CROP, workers=2, progress=lambda *at: seen.append(at))
    assert seen[-1] == ("cache", 6, 6)
    assert not out.with_name("cache.partial").exists()
    cache = CohortCache.open(out, verify=True)
    assert cache.cohort_digest == cohort.sha256
    assert [patient.patient_id for patient in cache.patients] == [
        "a0",
        "a1",
        "a2",
        "b0",
        "b1",
        "b2",
    ]
    assert {p.patient_id for p in cache.patients_of("train")} == {
        name for name, part in split.parts.items() if part == "train"
    }
    for patient, row in zip(cache.patients, cohort.rows, strict=True):
        if patient.patient_id in ("a0", "b0"):
            shown = shown_by_serving(row.series_path, tmp_path / "bundle")
            assert np.array_equal(cache.crops(patient), np.clip(shown, -1024, 100))
            assert patient.count == len(shown)
        assert patient.slices_in_stack == SLICES
        expected = 0 if patient.label == DiseaseClass.HEALTHY else -1
        assert (patient.slice_lesion == expected).all()
        assert (np.diff(patient.slice_number) > 0).all()


def shown_by_serving(folder: Path, bundle: Path) -> np.ndarray:
    """The crops that the analyzer hands to its engine for a series."""
    if not bundle.exists():
        make_untrained_bundle(bundle, slice_net=SliceNetParameters("resnet18"), crop=CROP)
    analyzer = Analyzer.load(bundle, device="cpu", threads=1)
    shown: list[np.ndarray] = []

    class Watching:
        description = "watches"

        def read(self, crops: np.ndarray, tick: object = None) -> SliceReadings:
            shown.append(crops.copy())
            return analyzer.engine.read(crops)

    watching = replace(analyzer, engine=Watching())
    watching.analyze(load_volume(sorted(folder.glob("*.dcm"))))
    return np.concatenate(shown)


def test_given_slice_labels_reach_the_cache(series: Path, tmp_path: Path) -> None:
    volume = load_volume(sorted((series / "b0").glob("*.dcm")))
    labels = tmp_path / "labels.csv"
    truth = np.arange(len(volume)) % 3 == 0
    lines = [
        f"{one.sop_instance_uid},{int(value)}"
        for one, value in zip(volume.slices, truth, strict=True)
    ]
    labels.write_text("sop_instance_uid,lesion\n" + "\n".join(lines) + "\n")
    rows = good_rows(series)
    rows[3] = f"b0,{series / 'b0'},covid19,{labels},"
    cohort = read_cohort(write_csv(tmp_path / "c", *rows))
    build_cache(cohort, split_patients(cohort), tmp_path / "cache", CROP, workers=1)
    patient = CohortCache.open(tmp_path / "cache").patients[3]
    assert np.array_equal(patient.slice_lesion, truth[patient.slice_number].astype(np.int8))


def test_a_partly_built_cache_is_never_taken_for_a_whole_one(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cache"
    split = split_patients(cohort)
    calls = []

    def stop_after_two(paths: object, **options: object) -> object:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(paths)
        return load_volume(paths, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("training.cohort.cache_build.load_volume", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        build_cache(cohort, split, out, CROP, workers=1)
    assert not out.exists()
    with pytest.raises(CacheError, match="partly built"):
        CohortCache.open(out)
    with pytest.raises(CacheError):
        CohortCache.open(out.with_name("cache.partial"))
    # The second run decodes the other four only.
    calls.clear()
    decoded = []
    monkeypatch.setattr(
        "training.cohort.cache_build.load_volume",
        lambda paths, **options: decoded.append(paths) or load_volume(paths, **options),
    )
    build_cache(cohort, split, out, CROP, workers=1)
    assert len(decoded) == 4
    assert len(CohortCache.open(out, verify=True).patients) == 6
    with pytest.raises(CacheError, match="there already"):
        build_cache(cohort, split, out, CROP, workers=1)


def test_an_altered_cache_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    out = build_cache(cohort, split_patients(cohort), tmp_path / "cache", CROP, workers=1)
    cache = CohortCache.open(out)
    file = out / "patients" / cache.patients[0].key / "crops.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    CohortCache.open(out)  # the length is right
    with pytest.raises(CacheError, match=r"patient a0\) has been altered"):
        CohortCache.open(out, verify=True)
    file.write_bytes(content[:-2])
    with pytest.raises(CacheError, match="altered"):
        CohortCache.open(out)
    file.unlink()
    with pytest.raises(CacheError, match="missing"):
        CohortCache.open(out)


def test_an_unreadable_series_names_its_row_and_the_others_are_kept(
    series: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(series / "b1", damaged)
    victim = damaged / "0007.dcm"
    victim.write_bytes(victim.read_bytes()[:-300])  # pixels are short
    rows = good_rows(series)
    rows[4] = f"b1,{damaged},covid19,,"
    cohort = read_cohort(write_csv(tmp_path / "c", *rows))
    with pytest.raises(CohortError, match=r"row 6: patient b1: ") as caught:
        build_cache(cohort, split_patients(cohort), tmp_path / "cache", CROP, workers=1)
    assert caught.value.row == 6
    done = tmp_path / "cache.partial" / "patients"
    assert len(list(done.glob("*/patient.json"))) == 5


def test_flips_bring_a_volume_to_the_usual_display(series: Path) -> None:
    volume = load_volume(sorted((series / "a0").glob("*.dcm")))
    crops, *_ = network_view(volume, CROP)
    turned = replace(
        volume,
        hu=np.ascontiguousarray(volume.hu[:, :, ::-1]),
        orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )
    again, *_ = network_view(turned, CROP)
    assert np.abs(crops.astype(int) - again).mean() < 3  # resizing is not mirror symmetric


# The command ------------------------------------------------------------------------------------


def test_check_split_and_cache_by_the_command(series: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path, *good_rows(series))
    runner = CliRunner()
    assert runner.invoke(cohort_cli.app, ["check", str(file)]).exit_code == 0
    result = runner.invoke(cohort_cli.app, ["split", str(file), "--seed", "5"])
    assert result.exit_code == 0, result.output
    assert "covid19" in result.output
    assert (tmp_path / "split.csv").is_file()
    assert runner.invoke(cohort_cli.app, ["split", str(file)]).exit_code == 2
    arguments = ["--cohort", str(file), "--out", str(tmp_path / "cache"), "--input-size", "64"]
    result = runner.invoke(cohort_cli.app, ["cache", *arguments, "--workers", "1"])
    assert result.exit_code == 0, result.output
    cache = CohortCache.open(tmp_path / "cache")
    assert cache.size == 64
    assert {p.patient_id: p.split for p in cache.patients} == read_split(
        tmp_path / "split.csv", read_cohort(file)
    ).parts


# From a PACS ------------------------------------------------------------------------------------


@dataclass
class Pacs:
    orthanc: Orthanc
    settings: NodeSettings


@pytest.fixture
def pacs(orthanc: Orthanc, series: Path) -> Pacs:
    for name in ("a0", "b0"):
        for path in sorted((series / name).glob("*.dcm")):
            orthanc.upload(path.read_bytes())
    port = free_port()
    orthanc.set_modality("m3lung", "M3LUNG", port)
    peer = Peer(name="pacs", ae_title=orthanc.ae_title, port=orthanc.dicom_port)
    return Pacs(orthanc, NodeSettings(peers=(peer,), listener={"port": port}))


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize("by_move", [False, True], ids=["get", "move"])
def test_pull_fetches_a_cohort(pacs: Pacs, series: Path, tmp_path: Path, by_move: bool) -> None:
    uids = [load_header(series / name / "0001.dcm", "StudyInstanceUID") for name in ("a0", "b0")]
    accession = load_header(series / "b0" / "0001.dcm", "AccessionNumber")
    studies = tmp_path / "studies.csv"
    studies.write_text(
        "patient_id,label,study_instance_uid,accession_number\n"
        f"one,healthy,{uids[0]},\n../two,covid19,,{accession}\n"
    )
    out = tmp_path / "pulled"
    peer = pacs.settings.peer("pacs")
    cohort = pull_cohort(pacs.settings, peer, studies, out, by_move=by_move)
    assert [row.patient_id for row in cohort.rows] == ["one", "../two"]
    assert all(row.series_path.is_relative_to(out) for row in cohort.rows)
    fetched = load_volume(sorted(cohort.rows[1].series_path.glob("*.dcm")))
    sent = load_volume(sorted((series / "b0").glob("*.dcm")))
    assert np.array_equal(fetched.hu, sent.hu)
    # What is there is not fetched again: the PACS may be gone.
    pacs.orthanc.kill()
    assert pull_cohort(pacs.settings, peer, studies, out).sha256 == cohort.sha256


@pytest.mark.peer("orthanc")
def test_pull_names_the_row_of_a_study_that_is_not_there(pacs: Pacs, tmp_path: Path) -> None:
    studies = tmp_path / "studies.csv"
    studies.write_text("patient_id,label,study_instance_uid\none,healthy,1.2.3\n")
    with pytest.raises(CohortError, match=r"studies\.csv, row 2: patient 'one'"):
        pull_cohort(pacs.settings, pacs.settings.peer("pacs"), studies, tmp_path / "out")


def load_header(path: Path, keyword: str) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True)[keyword].value)
