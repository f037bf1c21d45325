"""An int8 network for a bundle, made after training, and how far its readings agree.

NNCF (Apache-2.0), the companion of OpenVINO, chooses the scales of weights and activations: it runs
slices through the network, and corrects the bias that rounding brings into each layer. Nothing is
trained. Both networks then read the same patients by the product's own door.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_safetensors

from inference.analyzer import Analyzer
from inference.bundle import Bundle, Manifest, load_bundle
from inference.bundle_files import write_manifest
from inference.lung_crop import crop_lungs, crop_to_input
from inference.openvino_engine import OpenVinoEngine, converted, without_telemetry
from inference.quantized import Agreement, Int8Network
from inference.volume import load_volume
from training.cohort.table import Cohort, CohortRow
from training.errors import TrainingError
from training.evaluation.predictions import Prediction
from training.evaluation.reading import Case, find_case, read_case

__all__ = [
    "CALIBRATION_SLICES",
    "agreement",
    "calibration_crops",
    "compare",
    "quantize",
    "quantized_bundle",
]

CALIBRATION_SLICES = 300
FILE = "slice_net_int8.safetensors"

Progress = Callable[[str, int, int], None]


def quantized_bundle(
    directory: Path,
    out: Path,
    calibration: tuple[Cohort, Sequence[CohortRow]],
    test: tuple[Cohort, Sequence[CohortRow]],
    *,
    slices: int = CALIBRATION_SLICES,
    seed: int = 0,
    threads: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Manifest:
    """Write a copy of a bundle that holds an int8 network, too, with its agreement.

    Parameters
    ----------
    directory, out : Path
        The bundle; a new or empty folder.
    calibration : cohort and rows
        Patients whose slices give the ranges: of training or validation.
    test : cohort and rows
        Patients that are read by both networks.
    slices : int
        At most so many, evenly from all patients.
    seed : int
        Of the choice of slices.

    Raises
    ------
    TrainingError
        `out` is not empty, or NNCF is not installed.
    CohortError
        A series is missing, unreadable or unsuitable.
    inference.errors.BundleError
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainingError(f"{out} is not empty: a bundle gets a folder of its own")
    _require_nncf()
    bundle = load_bundle(directory)
    crops = calibration_crops(bundle, *calibration, slices=slices, seed=seed, progress=progress)
    progress("quantize", 0, 1)
    network, made_with = quantize(bundle, crops)
    progress("quantize", 1, 1)
    found = agreement(directory, network, *test, threads=threads, progress=progress)
    content = save_safetensors(network.tensors())
    out.mkdir(parents=True, exist_ok=True)
    for weights in (bundle.manifest.slice_weights, bundle.manifest.patient_weights):
        shutil.copyfile(directory / weights.file, out / weights.file)
    (out / FILE).write_bytes(content)
    fields = bundle.manifest.model_dump(mode="json", exclude={"int8"})
    fields["int8"] = {
        "weights": {"file": FILE, "sha256": hashlib.sha256(content).hexdigest()},
        "made_with": made_with,
        "calibration_slices": len(crops),
        "agreement": found.model_dump(mode="json"),
    }
    return write_manifest(out, Manifest, fields)


def calibration_crops(
    bundle: Bundle,
    cohort: Cohort,
    rows: Sequence[CohortRow],
    *,
    slices: int = CALIBRATION_SLICES,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> NDArray[np.int16]:
    """Return slices with lung, as the network is given them: as many of each patient.

    Returns
    -------
    ndarray of int16, shape (slices, input_size, input_size)
        Hounsfield units.
    """
    chance = np.random.default_rng(seed)
    each = -(-slices // len(rows))
    parameters = bundle.manifest.preprocessing.crop
    planes: list[NDArray[np.int16]] = []
    order = chance.permutation(len(rows))[:slices]
    for done, number in enumerate(order, start=1):
        case = find_case(cohort, rows[number])
        volume = load_volume(case.files.paths, frames=case.files.frames)
        crop = crop_lungs(volume.hu, volume.pixel_spacing_mm, parameters)
        chosen = np.flatnonzero(crop.has_lung)
        chosen = chance.choice(chosen, size=min(each, len(chosen)), replace=False)
        shown = [crop_to_input(volume.hu[index], crop.boxes[index], parameters) for index in chosen]
        if shown:
            planes += list(np.stack(shown)[volume.as_displayed])
        progress("calibrate", done, len(order))
    if not planes:
        raise TrainingError("no slice of the calibration patients shows lung")
    return np.ascontiguousarray(np.stack(planes[:slices]))


def quantize(bundle: Bundle, crops: NDArray[np.int16]) -> tuple[Int8Network, str]:
    """Make the int8 network; return it, and in words with what.

    Parameters
    ----------
    crops : ndarray of int16, shape (N, input_size, input_size)
        Each is seen in one of the bundle's windows, in turn.
    """
    nncf = _require_nncf()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    openvino = without_telemetry()
    centers = bundle.manifest.preprocessing.window.centers_hu
    items = [
        [crop.astype(np.float32)[None, None], np.float32(centers[number % len(centers)])]
        for number, crop in enumerate(crops)
    ]
    model = converted(bundle)
    with _quiet():
        made = nncf.quantize(
            model,
            nncf.Dataset(items),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(items),
            # The first convolution stays as it is: two in a hundred of the work, and the densities
            # of the lung are a small part of its input's range (ADR 0024 has the figures).
            ignored_scope=nncf.IgnoredScope(names=_stem(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Features have long tails: the largest value is no measure of the others.
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
                # Processors without VNNI add pairs of products in 16 bits, which can overflow: half
                # the range of the weights keeps every machine's sums the same.
                overflow_fix=nncf.OverflowFix.ENABLE,
            ),
        )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "int8.xml"
        openvino.save_model(made, path, compress_to_fp16=False)
        network = Int8Network(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    version = openvino.__version__.split("-")[0]
    return network, f"NNCF {nncf.__version__}, OpenVINO {version}"


def agreement(
    directory: Path,
    network: Int8Network,
    cohort: Cohort,
    rows: Sequence[CohortRow],
    *,
    threads: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Agreement:
    """Read patients by float32 and by int8, and compare."""
    exact = Analyzer.load(
        directory, engine="openvino", device="cpu", precision="float32", threads=threads
    )
    bundle = replace(load_bundle(directory), int8=network)
    rough = replace(exact, engine=OpenVinoEngine(bundle, torch.int8, threads))
    cases = [find_case(cohort, row) for row in rows]
    pairs = []
    for done, case in enumerate(cases, start=1):
        pairs.append(_both(case, exact, rough))
        progress("compare", done, len(cases))
    return compare(pairs, cohort.sha256)


def compare(pairs: Sequence[tuple[Prediction, Prediction]], cohort_sha256: str) -> Agreement:
    """Compare predictions of the same patients: float32 and int8."""
    patients = np.array([[one.probabilities for one in pair] for pair in pairs])  # (N, 2, 4)
    classes, lesion = (
        np.stack(
            [
                np.concatenate([getattr(pair[which], name)[pair[0].has_lung] for pair in pairs])
                for which in (0, 1)
            ],
            axis=1,
        )
        for name in ("slice_probabilities", "slice_lesion")
    )  # (S, 2, 4) and (S, 2)
    shares = [
        abs(first.percent_of_lung - second.percent_of_lung)
        for first, second in pairs
        if first.percent_of_lung is not None and second.percent_of_lung is not None
    ]

    def same(probabilities: NDArray[np.floating[Any]]) -> float:
        best = probabilities.argmax(axis=-1)
        return float(np.mean(best[:, 0] == best[:, 1]))

    apart_classes = np.abs(classes[:, 0] - classes[:, 1])
    apart_lesion = np.abs(lesion[:, 0] - lesion[:, 1])
    return Agreement(
        cohort_sha256=cohort_sha256,
        patients=len(pairs),
        slices=len(lesion),
        same_patient_class=same(patients),
        same_slice_class=same(classes),
        patient_difference=float(np.abs(patients[:, 0] - patients[:, 1]).max()),
        slice_difference=float(apart_classes.max()),
        mean_slice_difference=float(apart_classes.mean()),
        lesion_difference=float(apart_lesion.max()),
        mean_lesion_difference=float(apart_lesion.mean()),
        percent_of_lung_difference=max(shares, default=0.0),
    )


def _both(case: Case, exact: Analyzer, rough: Analyzer) -> tuple[Prediction, Prediction]:
    return read_case(case, exact).prediction, read_case(case, rough).prediction


def _stem(model: Any) -> list[str]:
    names = [operation.get_friendly_name() for operation in model.get_ops()]
    found = [name for name in names if ".stem." in name and name.endswith("/Convolution")]
    if len(found) != 1:
        raise TrainingError(f"the network has {len(found)} first convolutions, not one")
    return found


def _require_nncf() -> Any:
    without_telemetry()  # before NNCF, which would report its use
    try:
        import nncf
    except ImportError as error:
        raise TrainingError(
            "to make an int8 network NNCF is needed: pip install 'm3lung-node[int8]'"
        ) from error
    return nncf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's words and bars to itself: the caller shows how far it is."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        finally:
            logger.setLevel(level)
