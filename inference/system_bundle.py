"""Bundles of the two other systems: one manifest, one network, one weights file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from torch import nn

from inference.bundle_files import (
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
from inference.domain import ModelIdentity, Training
from inference.windowing import WindowParameters

__all__ = ["ONE_WINDOW", "SystemManifest", "read_system", "write_system"]

ONE_WINDOW = WindowParameters(centers_hu=(-500.0,))
"""All that the cached crops hold, [-1100, 100] HU, at once **(decided)**."""


class SystemManifest(Frozen):
    """What the manifests of M²UNet and JCS have in common.

    Attributes
    ----------
    format_version : int
        1.
    name, version : str
    training : Training
    limits : str
        What the model must not be used for, in words; shown with its output.
    preprocessing : Preprocessing
        The crop differs from the main model's in its input size at most: both share one crop.
    training_data : TrainingData or None
    metrics : dict of str to float
    weights : WeightsFile
    """

    format_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=64)]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    training: Training
    limits: Annotated[str, Field(min_length=1, max_length=1000)]
    preprocessing: Preprocessing = Preprocessing(window=ONE_WINDOW)
    training_data: TrainingData | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    weights: WeightsFile


_Manifest = TypeVar("_Manifest", bound=SystemManifest)
_Net = TypeVar("_Net", bound=nn.Module)


def read_system(
    directory: Path,
    kind: type[_Manifest],
    make_net: Callable[[_Manifest], _Net],
    threshold: Callable[[_Manifest], float],
) -> tuple[_Manifest, ModelIdentity, _Net]:
    """Read a bundle of one network and check every digest.

    Parameters
    ----------
    make_net : callable
        The network that the manifest describes, with any weights.
    threshold : callable
        Value of a probability map above which a pixel counts as lesion.

    Raises
    ------
    BundleError
        As :func:`inference.bundle.load_bundle`.
    """
    manifest, content = read_manifest(directory, kind)
    state = read_weights(directory, manifest.weights)
    net = make_net(manifest)
    fill(net, state, manifest.weights.file)
    identity = ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        sha256=model_digest(content, (manifest.weights,)),
        training=manifest.training,
        lesion_threshold=threshold(manifest),
    )
    return manifest, identity, net


def write_system(
    directory: Path, kind: type[_Manifest], fields: Mapping[str, object], net: nn.Module
) -> _Manifest:
    """Write manifest and weights; `fields` come without ``weights``.

    Raises
    ------
    BundleError
    """
    weights = write_weights(directory, "net", net)
    return write_manifest(directory, kind, {**fields, "weights": weights})
