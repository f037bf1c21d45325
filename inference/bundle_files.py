"""What all bundles are made of: a manifest, safetensors weights, and digests over both.

The three systems (:mod:`inference.bundle`, :mod:`inference.m2unet`, :mod:`inference.jcs`) differ
in what their manifests say; how files are written, checked and identified stands here, once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from inference.errors import BundleError
from inference.lung_crop import CropParameters
from inference.windowing import WindowParameters

__all__ = [
    "MANIFEST",
    "UNTRAINED_LIMITS",
    "Frozen",
    "Preprocessing",
    "Sha256",
    "TrainingData",
    "WeightsFile",
    "fill",
    "model_digest",
    "read_manifest",
    "read_weights",
    "write_manifest",
    "write_weights",
]

MANIFEST = "manifest.json"
UNTRAINED_LIMITS = (
    "Untrained: the weights are random numbers. Its output means nothing and must not be read."
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.safetensors$")]


class Frozen(BaseModel):
    """Part of a manifest: unknown fields are refused, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightsFile(Frozen):
    """A weights file of the bundle and its digest."""

    file: FileName
    sha256: Sha256


class Preprocessing(Frozen):
    """Crop and windows, as training used them."""

    crop: CropParameters = CropParameters()
    window: WindowParameters = WindowParameters()


class TrainingData(Frozen):
    """What the model learned from.

    Attributes
    ----------
    description : str
        In words.
    sha256 : str
        Digest of the cohort.
    patients : dict of class name to int
        Patients trained on, by class.
    """

    description: Annotated[str, Field(min_length=1, max_length=1000)]
    sha256: Sha256
    patients: dict[str, int]


_Manifest = TypeVar("_Manifest", bound=BaseModel)


def read_manifest(directory: Path, kind: type[_Manifest]) -> tuple[_Manifest, bytes]:
    """Read ``manifest.json``; return it with its bytes, of which the identity is made.

    Raises
    ------
    BundleError
        It is missing, or is no manifest of this kind.
    """
    content = _read(directory / MANIFEST)
    try:
        return kind.model_validate_json(content), content
    except ValidationError as error:
        raise BundleError(f"{MANIFEST}: {_first_problem(error)}") from error


def write_manifest(
    directory: Path, kind: type[_Manifest], fields: Mapping[str, object]
) -> _Manifest:
    """Check and write ``manifest.json``.

    Raises
    ------
    BundleError
        The fields are no manifest of this kind.
    """
    try:
        checked = kind.model_validate(dict(fields))
    except ValidationError as error:
        raise BundleError(f"{MANIFEST}: {_first_problem(error)}") from error
    text = json.dumps(checked.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    return checked


def write_weights(directory: Path, name: str, net: nn.Module) -> dict[str, str]:
    """Write ``NAME.safetensors``; return the fields of its :class:`WeightsFile`.

    Convolutions and matrices are stored as float16 (half the size; their values are far inside
    its range), everything else as float32.

    Raises
    ------
    BundleError
        A weight is not finite in its stored type.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = save_safetensors({k: _stored(k, v) for k, v in net.state_dict().items()})
    file = f"{name}.safetensors"
    (directory / file).write_bytes(content)
    return {"file": file, "sha256": hashlib.sha256(content).hexdigest()}


def read_weights(directory: Path, weights: WeightsFile) -> dict[str, Tensor]:
    """Read a weights file and compare its digest with the manifest's.

    Raises
    ------
    BundleError
    """
    content = _read(directory / weights.file)
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise BundleError(f"{weights.file} has been altered: its sha256 is not the manifest's")
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise BundleError(f"{weights.file} is not a safetensors file") from error


def fill(net: nn.Module, state: Mapping[str, Tensor], file: str) -> None:
    """Put weights into a network and set it to evaluation mode.

    Raises
    ------
    BundleError
        They do not fit.
    """
    wanted = net.state_dict()
    odd = sorted(wanted.keys() ^ state.keys())
    odd += [n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape]
    if odd:
        raise BundleError(
            f"{file} does not fit the architecture: {len(odd)} tensors differ, such as {odd[0]}"
        )
    net.load_state_dict({name: state[name].to(wanted[name].dtype) for name in wanted})
    net.eval()
    net.requires_grad_(requires_grad=False)


def model_digest(manifest: bytes, weights: Iterable[WeightsFile]) -> str:
    """Return the identity of a model: it changes whenever any output can."""
    digest = hashlib.sha256(manifest)
    for one in weights:
        digest.update(bytes.fromhex(one.sha256))
    return digest.hexdigest()


def _stored(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.contiguous()
    stored = value.detach().cpu().to(torch.float16 if value.ndim >= 2 else torch.float32)
    if not bool(torch.isfinite(stored).all()):
        raise BundleError(f"tensor {name} holds values that cannot be stored")
    return stored.contiguous()


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path.name} is missing from the bundle {path.parent}") from error
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}") from error
