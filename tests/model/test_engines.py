"""Both engines against the network itself; what they need and what they must not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.bundle import Bundle, load_bundle, write_bundle
from inference.domain import DiseaseClass, Training
from inference.engine import choose_device, choose_precision, make_engine
from inference.errors import DeviceError
from inference.lung_crop import CropParameters, crop_lungs, crop_to_input
from inference.patient_net import PatientNet, PatientNetParameters
from inference.slice_net import SliceNet, SliceNetParameters
from inference.windowed_net import fold_batch_norms
from inference.windowing import WindowParameters, apply_window, normalize
from training.phantom import Case, Family

SIZE = 96


@pytest.fixture(scope="module")
def net() -> SliceNet:
    torch.manual_seed(0)
    made = SliceNet(SliceNetParameters(backbone="resnet18")).eval()
    for module in made.modules():  # statistics that folding must respect
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    # float16 and back, as a bundle stores them
    made.load_state_dict(
        {k: v.half().float() if v.ndim >= 2 else v for k, v in made.state_dict().items()}
    )
    return made


def bundle_of(net: SliceNet, folder: Path, **manifest: object) -> Bundle:
    parameters = PatientNetParameters(feature_size=net.feature_size)
    write_bundle(
        folder,
        {
            "name": "test",
            "version": "1",
            "training": Training.UNTRAINED,
            "limits": "none",
            "architecture": {
                "slice_net": asdict(net.parameters_),
                "patient_net": asdict(parameters),
            },
            "preprocessing": {"crop": asdict(CropParameters(input_size=SIZE))},
            **manifest,
        },
        net,
        PatientNet(parameters),
    )
    return load_bundle(folder)


def expected(net: SliceNet, crops: np.ndarray, temperatures=(1.0, 1.0)) -> list[np.ndarray]:
    """Means over the windows, in numpy and the plain network."""
    window = WindowParameters()
    features, lesion, classes, maps = [], [], [], []
    with torch.inference_mode():
        for center in window.centers_hu:
            out = net(torch.from_numpy(normalize(apply_window(crops, center, 1200), window)))
            features.append(out.features)
            lesion.append((out.lesion_logits / temperatures[0]).softmax(1)[:, 1])
            classes.append((out.class_logits / temperatures[1]).softmax(1))
            maps.append(out.location[:, 0])
    return [torch.stack(parts).mean(0).numpy() for parts in (features, lesion, classes, maps)]


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 300, (5, SIZE, SIZE)).astype(np.int16)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engine_averages_what_each_window_gives(net, crops, tmp_path, engine):
    ticks: list[int] = []
    made = make_engine(bundle_of(net, tmp_path), name=engine, device="cpu", precision="float32")
    readings = made.read(crops, ticks.append)
    got = (readings.features, readings.lesion_probability, readings.probabilities, readings.maps)
    for value, reference in zip(got, expected(net, crops), strict=True):
        assert value.dtype == np.float32
        assert np.allclose(value, reference, atol=1e-4)
    assert np.allclose(readings.probabilities.sum(axis=1), 1, atol=1e-5)
    assert sum(ticks) == 5 * 3
    assert engine in made.description.lower()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_temperatures_soften_probabilities_and_leave_the_maps(net, crops, tmp_path, engine):
    calibration = {"lesion_temperature": 2.0, "slice_temperature": 3.0}
    bundle = bundle_of(net, tmp_path, calibration=calibration)
    readings = make_engine(bundle, name=engine, device="cpu", precision="float32").read(crops)
    _, lesion, classes, maps = expected(net, crops, (2.0, 3.0))
    assert np.allclose(readings.lesion_probability, lesion, atol=1e-4)
    assert np.allclose(readings.probabilities, classes, atol=1e-4)
    assert np.allclose(readings.maps, maps, atol=1e-4)


def test_all_windows_in_one_pass_are_the_same(net, crops, tmp_path):
    """What a GPU does, on this CPU."""
    ticks: list[int] = []
    made = make_engine(bundle_of(net, tmp_path), name="torch", device="cpu", precision="float32")
    readings = made.read_together(crops, ticks.append)
    got = (readings.features, readings.lesion_probability, readings.probabilities, readings.maps)
    for value, reference in zip(got, expected(net, crops), strict=True):
        assert value.dtype == np.float32
        assert np.allclose(value, reference, atol=1e-4)
    assert sum(ticks) == 5 * 3


def test_a_reading_that_is_stopped_leaves_the_engine_usable(net, crops, tmp_path):
    class Stopped(Exception):
        pass

    def stop(_: int) -> None:
        raise Stopped

    made = make_engine(
        bundle_of(net, tmp_path), name="openvino", device="cpu", precision="float32", threads=3
    )
    before = made.read(crops)
    with pytest.raises(Stopped):
        made.read(crops, stop)
    again = made.read(crops)
    assert np.array_equal(again.features, before.features)
    assert np.array_equal(again.maps, before.maps)


PHANTOM = Path(__file__).parents[2] / "inference" / "bundles" / "phantom-v1"


def test_engines_and_precisions_agree_on_the_bundle_that_comes_along():
    """Probabilities within 0.01 and the same class, on slices of two phantoms."""
    bundle = load_bundle(PHANTOM)
    parameters = bundle.manifest.preprocessing.crop
    planes = []
    for label in (DiseaseClass.HEALTHY, DiseaseClass.COVID19):
        case = Case(label, 3, family=Family.TEST, slices=12, slice_mm=20.0, rows=256)
        hu = np.stack([drawn.hu for drawn in case])
        crop = crop_lungs(hu, (case.scanner.pixel_mm, case.scanner.pixel_mm), parameters)
        chosen = np.flatnonzero(crop.has_lung)[::2]
        planes += [crop_to_input(hu[i], crop.boxes[i], parameters) for i in chosen]
    crops = np.stack(planes)
    assert len(crops) >= 6
    reference = make_engine(bundle, name="torch", device="cpu", precision="float32").read(crops)
    native = choose_precision("auto", torch.device("cpu")) == torch.bfloat16
    step = 1 if native else len(crops) - 1  # emulated, bfloat16 takes many times as long
    for name, precision, every in (("openvino", "float32", 1), ("openvino", "bfloat16", 1),
                                   ("torch", "bfloat16", step)):  # fmt: skip
        got = make_engine(bundle, name=name, device="cpu", precision=precision).read(crops[::every])
        lesion = np.abs(got.lesion_probability - reference.lesion_probability[::every])
        classes = np.abs(got.probabilities - reference.probabilities[::every])
        apart = (name, precision, float(lesion.max()), float(classes.max()))
        assert lesion.max() <= 0.01, apart
        assert classes.max() <= 0.01, apart
        assert np.array_equal(
            got.probabilities.argmax(axis=1), reference.probabilities[::every].argmax(axis=1)
        ), apart


def test_the_engine_of_a_cpu_is_openvino(net, tmp_path):
    made = make_engine(bundle_of(net, tmp_path), device="cpu", precision="float32", threads=1)
    assert made.description.startswith("OpenVINO")
    assert made.description.endswith("cpu, float32")


def test_folding_batch_norm_changes_nothing(net):
    x = torch.randn(2, 3, 64, 64)
    copied = SliceNet(net.parameters_).eval()
    copied.load_state_dict(net.state_dict())
    with torch.inference_mode():
        before = copied(x)
        after = fold_batch_norms(copied)(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in copied.modules())
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


_LISTEN = """
import json, sys
talked = []
names = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
sys.addaudithook(lambda event, args: talked.append(event) if event in names else None)
from pathlib import Path
from inference.bundle import load_bundle
from inference.engine import make_engine
make_engine(load_bundle(Path(sys.argv[1])), name="openvino", device="cpu", precision="float32")
print(json.dumps(talked))
"""


def test_openvino_reports_to_nobody(net, tmp_path):
    """As shipped it reports every import to its makers, and leaves an identifier at home."""
    bundle_of(net, tmp_path / "bundle")
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_ACTIONS")}
    done = subprocess.run(
        [sys.executable, "-c", _LISTEN, str(tmp_path / "bundle")],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert list(home.iterdir()) == []


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="cuda"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize(
    ("abilities", "dtype"),
    [({}, torch.float32), ({"avx512_f": True}, torch.float32),
     ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)  # fmt: skip
def test_auto_takes_bfloat16_only_where_the_cpu_computes_in_it(monkeypatch, abilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert choose_precision("auto", torch.device("cpu")) == dtype
    assert choose_precision("float32", torch.device("cpu")) == torch.float32
    assert choose_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
