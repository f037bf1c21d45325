"""Model bundles: a folder with ``manifest.json`` and safetensors weights.

Everything that changes a prediction is in the bundle, nothing of it in the node's settings.
The manifest names each weights file with its sha256, so the digest over the manifest and these
is the identity of the model: it changes whenever any output can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from inference.bundle_files import (
    MANIFEST,
    UNTRAINED_LIMITS,
    Frozen,
    Preprocessing,
    TrainingData,
    WeightsFile,
    fill,
    model_digest,
    read_manifest,
    read_weights,
    write_manifest,
    write_weights,
)
from inference.domain import DiseaseClass, ModelIdentity, Training
from inference.errors import BundleError
from inference.lung_crop import CropParameters
from inference.patient_net import PatientNet, PatientNetParameters
from inference.quantized import Int8Network, QuantizedNet
from inference.slice_net import SliceNet, SliceNetParameters

__all__ = [
    "MANIFEST",
    "Bundle",
    "Calibration",
    "Manifest",
    "TrainingData",
    "load_bundle",
    "make_untrained_bundle",
    "write_bundle",
]

CLASS_NAMES = tuple(disease.key for disease in DiseaseClass)


class Architecture(Frozen):
    """Constructor arguments of the two networks."""

    slice_net: SliceNetParameters = SliceNetParameters()
    patient_net: PatientNetParameters = PatientNetParameters()


class Thresholds(Frozen):
    """Where scores become statements."""

    lesion: Annotated[float, Field(gt=0, lt=1)] = 0.5
    nonparametric_healthy: Annotated[float, Field(gt=0, lt=1)] = 0.99


class Calibration(Frozen):
    """Temperatures that logits are divided by, fitted on validation patients (1: as trained).

    Attributes
    ----------
    lesion_temperature, slice_temperature : float
        Of the two-way and of the four-way head of a slice. Location maps are left as they are.
    patient_temperature : float
    """

    lesion_temperature: Annotated[float, Field(gt=0)] = 1.0
    slice_temperature: Annotated[float, Field(gt=0)] = 1.0
    patient_temperature: Annotated[float, Field(gt=0)] = 1.0


class Manifest(Frozen):
    """``manifest.json``.

    Attributes
    ----------
    format_version : int
        1.
    name, version : str
    training : Training
    limits : str
        What the model must not be used for, in words; shown with its output.
    classes : tuple of str
        In class order; checked against :class:`~inference.domain.DiseaseClass`.
    architecture, preprocessing, thresholds, calibration
    training_data : TrainingData or None
    metrics : dict of str to float
        What an evaluation measured, for whoever chooses a model; the model card says on what.
    slice_weights, patient_weights : WeightsFile
    int8 : QuantizedNet or None
        The slice network in 8-bit integers, too.
    """

    format_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=64)]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    training: Training
    limits: Annotated[str, Field(min_length=1, max_length=1000)]
    classes: tuple[str, ...] = CLASS_NAMES
    architecture: Architecture = Architecture()
    preprocessing: Preprocessing = Preprocessing()
    thresholds: Thresholds = Thresholds()
    calibration: Calibration = Calibration()
    training_data: TrainingData | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    slice_weights: WeightsFile
    patient_weights: WeightsFile
    int8: QuantizedNet | None = None

    @model_validator(mode="after")
    def _fits_this_software(self) -> Manifest:
        if self.classes != CLASS_NAMES:
            raise ValueError(f"classes are {self.classes}, this software needs {CLASS_NAMES}")
        if not self.architecture.slice_net.multitask:
            raise ValueError("the slice network has no lesion head: it cannot locate lesions")
        if self.preprocessing.crop.input_size % 32:
            raise ValueError("input_size is no multiple of 32")
        if not self.preprocessing.window.centers_hu:
            raise ValueError("there is no window centre")
        return self


@dataclass(frozen=True)
class Bundle:
    """A loaded model, its weights checked.

    Attributes
    ----------
    manifest : Manifest
    identity : ModelIdentity
    slice_net : SliceNet
        On the CPU, float32, evaluation mode.
    patient_net : PatientNet
    int8 : Int8Network or None
        In place of `slice_net`, for whoever asks for it.
    """

    manifest: Manifest
    identity: ModelIdentity
    slice_net: SliceNet
    patient_net: PatientNet
    int8: Int8Network | None = None


def load_bundle(directory: Path) -> Bundle:
    """Read a bundle and check every digest.

    Parameters
    ----------
    directory : Path

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        A file is missing or altered, the format is unknown, the classes come in another order,
        or the weights do not fit the architecture. The message names the file.
    """
    manifest, manifest_bytes = read_manifest(directory, Manifest)
    slice_state = read_weights(directory, manifest.slice_weights)
    patient_state = read_weights(directory, manifest.patient_weights)
    slice_net = SliceNet(manifest.architecture.slice_net)
    if slice_net.feature_size != manifest.architecture.patient_net.feature_size:
        raise BundleError(
            f"{MANIFEST}: the slice network gives {slice_net.feature_size} features, the patient "
            f"network takes {manifest.architecture.patient_net.feature_size}"
        )
    patient_net = PatientNet(manifest.architecture.patient_net)
    fill(slice_net, slice_state, manifest.slice_weights.file)
    fill(patient_net, patient_state, manifest.patient_weights.file)
    int8 = None
    if manifest.int8 is not None:
        weights = manifest.int8.weights
        int8 = Int8Network.of_tensors(read_weights(directory, weights), weights.file)
    return Bundle(manifest, _identity(manifest, manifest_bytes), slice_net, patient_net, int8)


def write_bundle(
    directory: Path, manifest: Mapping[str, object], slice_net: nn.Module, patient_net: nn.Module
) -> Manifest:
    """Write weights and manifest of a model.

    Parameters
    ----------
    directory : Path
        Made if absent; files of the same names are replaced.
    manifest : mapping
        Fields of :class:`Manifest` without the two weights files.
    slice_net, patient_net : nn.Module
        Convolutions and matrices are stored as float16 (half the size; their values are far
        inside its range), everything else as float32.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    BundleError
        The manifest does not validate, or a weight is not finite in its stored type.
    """
    files = {
        "slice_weights": write_weights(directory, "slice_net", slice_net),
        "patient_weights": write_weights(directory, "patient_net", patient_net),
    }
    return write_manifest(directory, Manifest, {**manifest, **files})


def make_untrained_bundle(
    directory: Path,
    seed: int = 0,
    *,
    slice_net: SliceNetParameters | None = None,
    patient_net: PatientNetParameters | None = None,
    crop: CropParameters | None = None,
) -> Manifest:
    """Write a bundle of random weights: the whole way of a series without a trained model.

    Parameters
    ----------
    directory : Path
    seed : int
        The same seed gives the same bytes with the same torch.
    slice_net, patient_net, crop
        Other than the default architecture and preprocessing, for tests.

    Returns
    -------
    Manifest
        ``training`` is "untrained"; every output says so.
    """
    slice_parameters = slice_net or SliceNetParameters()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        slice_module = SliceNet(slice_parameters)
        patient_parameters = patient_net or PatientNetParameters(
            feature_size=slice_module.feature_size
        )
        patient_module = PatientNet(patient_parameters)
        _spread(slice_module)
    return write_bundle(
        directory,
        {
            "name": "m3lung-untrained",
            "version": f"0.0.0+seed{seed}",
            "training": Training.UNTRAINED,
            "limits": UNTRAINED_LIMITS,
            "architecture": {
                "slice_net": asdict(slice_parameters),
                "patient_net": asdict(patient_parameters),
            },
            "preprocessing": {"crop": asdict(crop or CropParameters())},
        },
        slice_module,
        patient_module,
    )


def _spread(net: SliceNet) -> None:
    """Let random weights give readings that differ from place to place.

    Without training batch norm normalises nothing: the last one of each bottleneck is scaled
    down, so that 16 blocks do not double the variance 16 times. All features are positive, so
    head weights with a mean would read the brightness of everything: the mean is taken out.
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.25)
    with torch.no_grad():
        for head, gain in ((net.lesion_head, 30.0), (net.class_head, 10.0)):
            if head is not None:
                head.weight.sub_(head.weight.mean(dim=1, keepdim=True)).mul_(gain)
                head.bias.zero_()


def _identity(manifest: Manifest, manifest_bytes: bytes) -> ModelIdentity:
    digest = model_digest(manifest_bytes, (manifest.slice_weights, manifest.patient_weights))
    return ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        sha256=digest,
        training=manifest.training,
        lesion_threshold=manifest.thresholds.lesion,
    )
