"""Bundles: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.bundle import load_bundle, make_untrained_bundle, write_bundle
from inference.domain import Training
from inference.errors import BundleError
from inference.lung_crop import CropParameters
from inference.slice_net import SliceNetParameters

SMALL = {
    "slice_net": SliceNetParameters(backbone="resnet18"),
    "crop": CropParameters(input_size=64),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "small"
    make_untrained_bundle(folder, 3, **SMALL)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "b")
    return tmp_path / "b"


def edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)


def test_a_bundle_holds_two_weights_files_and_a_manifest(bundle):
    assert sorted(p.name for p in bundle.iterdir()) == [
        "manifest.json", "patient_net.safetensors", "slice_net.safetensors",
    ]  # fmt: skip
    loaded = load_bundle(bundle)
    assert loaded.identity.training is Training.UNTRAINED
    assert loaded.manifest.preprocessing.crop.input_size == 64
    assert loaded.manifest.classes == ("healthy", "covid19", "h1n1", "cap")
    assert not loaded.slice_net.training
    assert loaded.slice_net.lesion_head.weight.dtype == torch.float32
    assert loaded.patient_net.parameters_.feature_size == 256 + 512


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    torch.manual_seed(99)  # the global generator is neither used nor moved
    before = torch.get_rng_state()
    make_untrained_bundle(tmp_path / "again", 3, **SMALL)
    make_untrained_bundle(tmp_path / "other", 4, **SMALL)
    assert torch.equal(before, torch.get_rng_state())
    for name in ("manifest.json", "slice_net.safetensors", "patient_net.safetensors"):
        assert (made / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (made / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
    first, second = load_bundle(made), load_bundle(tmp_path / "again")
    assert first.identity == second.identity
    assert first.identity.sha256 != load_bundle(tmp_path / "other").identity.sha256


def test_weights_come_back_as_float16_rounded(made, tmp_path):
    loaded = load_bundle(made)
    with torch.no_grad():
        loaded.slice_net.class_head.weight.fill_(0.1)
    write_bundle(
        tmp_path / "b",
        loaded.manifest.model_dump(exclude={"slice_weights", "patient_weights"}),
        loaded.slice_net,
        loaded.patient_net,
    )
    weight = load_bundle(tmp_path / "b").slice_net.class_head.weight
    assert torch.all(weight == torch.tensor(0.1).half().float())


def test_the_full_bundle_fits_its_size(tmp_path):
    make_untrained_bundle(tmp_path / "full")
    sizes = [p.stat().st_size for p in (tmp_path / "full").iterdir()]
    assert max(sizes) < 90e6


@pytest.mark.parametrize("name", ["slice_net.safetensors", "patient_net.safetensors"])
def test_an_altered_byte_is_noticed(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(content)
    refused(bundle, f"{name} has been altered")


@pytest.mark.parametrize(
    "name", ["manifest.json", "slice_net.safetensors", "patient_net.safetensors"]
)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    refused(bundle, f"{name} is missing")


def test_no_folder(tmp_path):
    refused(tmp_path / "none", "manifest.json is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format_version=2), "manifest.json: format_version"),
        (lambda m: m.update(classes=["covid19", "healthy", "h1n1", "cap"]), "classes"),
        (lambda m: m.update(training="certified"), "training"),
        (lambda m: m.update(author="x"), "author"),
        (lambda m: m.pop("limits"), "limits"),
        (lambda m: m["thresholds"].update(lesion=1.5), "thresholds.lesion"),
        (lambda m: m["slice_weights"].update(file="../evil.safetensors"), "slice_weights.file"),
        (lambda m: m["slice_weights"].update(file="weights.pkl"), "slice_weights.file"),
        (lambda m: m["preprocessing"]["crop"].update(input_size=100), "multiple of 32"),
        (lambda m: m["preprocessing"]["window"].update(centers_hu=[]), "window centre"),
        (
            lambda m: m["architecture"]["slice_net"].update(multitask=False, attention=False),
            "no lesion head",
        ),
        (lambda m: m["architecture"]["slice_net"].update(multitask=False), "lesion head"),
        (lambda m: m["architecture"]["slice_net"].update(backbone="resnet34"), "does not fit"),
        (lambda m: m["architecture"]["patient_net"].update(feature_size=3072), "768 features"),
        (lambda m: m["architecture"]["patient_net"].update(heads=4), "patient_net.safetensors"),
    ],
)
def test_a_manifest_that_does_not_fit(bundle, change, words):
    edit(bundle, change)
    refused(bundle, words)


def test_a_manifest_that_is_no_json(bundle):
    (bundle / "manifest.json").write_text("{")
    refused(bundle, "manifest.json")


def test_any_change_of_the_manifest_is_another_model(bundle):
    before = load_bundle(bundle).identity
    edit(bundle, lambda m: m["thresholds"].update(lesion=0.6))
    after = load_bundle(bundle).identity
    assert after.sha256 != before.sha256
    assert after.lesion_threshold == 0.6


def test_weights_with_an_extra_tensor(bundle):
    path = bundle / "slice_net.safetensors"
    save_file({**load_file(path), "extra": torch.zeros(1)}, path)
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(bundle, lambda m: m["slice_weights"].update(sha256=digest))
    refused(bundle, "slice_net.safetensors does not fit the architecture.*extra")


def test_a_weight_beyond_float16_is_not_written(made, tmp_path):
    loaded = load_bundle(made)
    with torch.no_grad():
        loaded.slice_net.class_head.weight[0, 0] = 1e6
    with pytest.raises(BundleError, match=r"class_head\.weight"):
        write_bundle(
            tmp_path / "b",
            loaded.manifest.model_dump(exclude={"slice_weights", "patient_weights"}),
            loaded.slice_net,
            loaded.patient_net,
        )
