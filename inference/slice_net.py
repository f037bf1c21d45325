"""The slice network (paper III-B): ResNet-50, two heads, location map, coordinate maps."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50, resnet101
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from inference.errors import BundleError
from inference.lesion_map import LocationMode, location_map

__all__ = ["SliceNet", "SliceNetParameters", "SliceOutput", "load_imagenet_weights"]

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
_BACKBONES = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
}


@dataclass(frozen=True, slots=True)
class SliceNetParameters:
    """What the network is made of; the defaults are the paper's.

    Attributes
    ----------
    backbone : str
    multitask : bool
        Two-way lesion head on ResBlock3.
    attention : bool
        Location map concatenated into ResBlock4; needs `multitask`.
    coordinates : bool
        Coordinate maps concatenated into ResBlock4.
    location_mode : LocationMode
        Reading of the location map, as attention and as output.
    """

    backbone: Backbone = "resnet50"
    multitask: bool = True
    attention: bool = True
    coordinates: bool = True
    location_mode: LocationMode = "lesion"

    def __post_init__(self) -> None:
        if self.attention and not self.multitask:
            raise ValueError("the attention map is made from the lesion head: multitask=True")

    @property
    def extra_channels(self) -> int:
        """Channels concatenated with the ResBlock3 feature: 0 to 4."""
        return int(self.attention) + 3 * int(self.coordinates)


class SliceOutput(NamedTuple):
    """What one forward pass gives.

    Attributes
    ----------
    features : Tensor, shape (B, D3 + D4)
        Pooled ResBlock3 ⊕ ResBlock4: 1024 + 2048 for ResNet-50.
    lesion_logits : Tensor or None, shape (B, 2)
        Without / with lesion.
    class_logits : Tensor, shape (B, 4)
    location : Tensor or None, shape (B, 1, H/16, W/16)
        Location map in [0, 1].
    """

    features: Tensor
    lesion_logits: Tensor | None
    class_logits: Tensor
    location: Tensor | None


class SliceNet(nn.Module):
    """ResNet with a lesion head after ResBlock3 and a class head after ResBlock4.

    Parameters
    ----------
    parameters : SliceNetParameters
    """

    def __init__(self, parameters: SliceNetParameters | None = None) -> None:
        super().__init__()
        self.parameters_ = parameters or SliceNetParameters()
        resnet: ResNet = _BACKBONES[self.parameters_.backbone](weights=None)
        d4: int = resnet.fc.in_features
        d3 = d4 // 2
        self.feature_size = d3 + d4
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = resnet.layer3
        self.layer4 = _widen(resnet.layer4, self.parameters_.extra_channels)
        self.lesion_head = nn.Linear(d3, 2) if self.parameters_.multitask else None
        self.class_head = nn.Linear(d4, 4)

    def forward(self, x: Tensor) -> SliceOutput:
        """Run a batch.

        Parameters
        ----------
        x : Tensor of float, shape (B, 3, H, W)
            Windowed and normalised crops; H and W multiples of 32. Shapes below for ResNet-50
            at 512 x 512.
        """
        x = self.stem(x)  # (B, 64, 128, 128)
        x = self.layer1(x)  # (B, 256, 128, 128)
        x = self.layer2(x)  # (B, 512, 64, 64)
        f3 = self.layer3(x)  # (B, 1024, 32, 32)
        pooled3 = f3.mean(dim=(2, 3))  # (B, 1024)
        lesion_logits = location = None
        joined = [f3]
        if self.lesion_head is not None:
            lesion_logits = self.lesion_head(pooled3)  # (B, 2)
            location = location_map(
                f3, self.lesion_head.weight, self.lesion_head.bias, self.parameters_.location_mode
            )  # (B, 1, 32, 32)
            if self.parameters_.attention:
                joined.append(location)
        if self.parameters_.coordinates:
            joined.append(coordinate_maps(f3))  # (B, 3, 32, 32)
        f4 = self.layer4(torch.cat(joined, dim=1))  # (B, 1028, 32, 32) -> (B, 2048, 16, 16)
        pooled4 = f4.mean(dim=(2, 3))  # (B, 2048)
        class_logits = self.class_head(pooled4)  # (B, 4)
        features = torch.cat([pooled3, pooled4], dim=1)  # (B, 3072)
        return SliceOutput(features, lesion_logits, class_logits, location)


def coordinate_maps(feature: Tensor) -> Tensor:
    """Coordinates x, y in [-1, 1] and the distance d = √(x² + y²) of every location (III-B.3).

    Parameters
    ----------
    feature : Tensor, shape (B, C, H, W)
        Gives batch, size, type and device.

    Returns
    -------
    Tensor, shape (B, 3, H, W)
    """
    batch, _, height, width = feature.shape
    device, dtype = feature.device, feature.dtype
    rows = torch.linspace(-1, 1, height, device=device, dtype=dtype)
    columns = torch.linspace(-1, 1, width, device=device, dtype=dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")  # (H, W), (H, W)
    maps = torch.stack([x, y, torch.sqrt(x * x + y * y)])  # (3, H, W)
    return maps.expand(batch, 3, height, width)  # (B, 3, H, W)


def _widen(layer4: nn.Sequential, extra: int) -> nn.Sequential:
    """Let ResBlock4 take `extra` more input channels: its first block's entries are replaced."""
    first = layer4[0]
    if extra == 0 or not isinstance(first, BasicBlock | Bottleneck) or first.downsample is None:
        return layer4
    first.conv1 = _with_inputs(first.conv1, extra)
    first.downsample[0] = _with_inputs(first.downsample[0], extra)
    return layer4


def _with_inputs(conv: nn.Conv2d, extra: int) -> nn.Conv2d:
    wide = nn.Conv2d(
        conv.in_channels + extra,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # torch types it as tuple[int, ...]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=False,
    )
    nn.init.kaiming_normal_(wide.weight, mode="fan_out", nonlinearity="relu")
    return wide


def load_imagenet_weights(net: SliceNet, path: Path, sha256: str | None = None) -> None:
    """Start from ImageNet: put a torchvision ResNet's state dict into `net`.

    Parameters
    ----------
    net : SliceNet
    path : Path
        A state dict of the same ResNet as safetensors, or as ``.pth`` (read with
        ``weights_only=True``: no code of the file runs).
    sha256 : str or None
        Expected digest of the file, hexadecimal.

    Raises
    ------
    BundleError
        The file is missing, altered, or of another network. Nothing has been changed then.

    Notes
    -----
    The extra inputs of ResBlock4 start at zero, so that the network starts as ImageNet's.
    ImageNet's own classifier (``fc``) is left out.
    """
    state = _read_state_dict(path, sha256)
    wanted = net.state_dict()
    renamed = {_slice_net_name(name): value for name, value in state.items()}
    renamed = {name: value for name, value in renamed.items() if not name.startswith("fc.")}
    backbone = {name for name in wanted if not name.startswith(("lesion_head", "class_head"))}
    # Old torchvision files lack the counters of batch norm; nothing depends on them.
    missing = {n for n in backbone - renamed.keys() if not n.endswith("num_batches_tracked")}
    if missing or renamed.keys() - backbone:
        odd = sorted(missing | (renamed.keys() - backbone))
        raise BundleError(
            f"{path.name} does not hold a torchvision {net.parameters_.backbone}: "
            f"{len(odd)} tensors do not match, such as {odd[0]}"
        )
    fitted = {name: _fit(value, wanted[name], name, path) for name, value in renamed.items()}
    net.load_state_dict({**wanted, **fitted})


def _read_state_dict(path: Path, sha256: str | None) -> Mapping[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256.lower():
        raise BundleError(f"{path.name} is not the file expected: its sha256 differs")
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(content)
        except SafetensorError as error:
            raise BundleError(f"{path.name} is not a safetensors file") from error
    return _read_pth(path)


def _read_pth(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BundleError(f"{path.name} is not a state dict that can be read safely") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BundleError(f"{path.name} does not hold a state dict")
    return state


def _slice_net_name(name: str) -> str:
    for old, new in (("conv1.", "stem.0."), ("bn1.", "stem.1.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _fit(value: Tensor, wanted: Tensor, name: str, path: Path) -> Tensor:
    if value.shape == wanted.shape:
        return value.to(wanted.dtype)
    widened = (
        name in ("layer4.0.conv1.weight", "layer4.0.downsample.0.weight")
        and value.ndim == 4
        and value.shape[1] < wanted.shape[1]
        and (value.shape[0], *value.shape[2:]) == (wanted.shape[0], *wanted.shape[2:])
    )
    if not widened:
        raise BundleError(
            f"{path.name}: tensor {name} has shape {tuple(value.shape)}, "
            f"expected {tuple(wanted.shape)}"
        )
    extra = wanted.shape[1] - value.shape[1]
    zeros = value.new_zeros((value.shape[0], extra, *value.shape[2:]))
    return torch.cat([value, zeros], dim=1).to(wanted.dtype)
