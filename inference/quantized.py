"""The slice network in 8-bit integers: how it lies in a bundle, and what was measured of it.

OpenVINO's network and its numbers are two tensors of bytes in one safetensors file, under a digest
like all weights. It is another model than the one it was made from, if nearly the same: whoever
chooses it reads :class:`Agreement` first (ADR 0024).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from inference.bundle_files import Frozen, Sha256, WeightsFile
from inference.domain import ModelIdentity
from inference.errors import BundleError

__all__ = ["Agreement", "Int8Network", "QuantizedNet", "identity_in_int8"]

Share = Annotated[float, Field(ge=0, le=1)]


class Agreement(Frozen):
    """How far int8 agrees with float32, on patients that neither learned from.

    Attributes
    ----------
    cohort_sha256 : str
        Of the cohort that both read.
    patients, slices : int
        Slices: those with lung.
    same_patient_class, same_slice_class : float
        Share with the same most probable class.
    patient_difference, slice_difference, lesion_difference : float
        Largest difference of a probability: of the patient, of a slice's class, of its lesion.
    mean_slice_difference, mean_lesion_difference : float
        Means of the latter two.
    percent_of_lung_difference : float
        Largest difference of the lesions' share of the lung, in points.
    """

    cohort_sha256: Sha256
    patients: Annotated[int, Field(gt=0)]
    slices: Annotated[int, Field(gt=0)]
    same_patient_class: Share
    same_slice_class: Share
    patient_difference: Share
    slice_difference: Share
    mean_slice_difference: Share
    lesion_difference: Share
    mean_lesion_difference: Share
    percent_of_lung_difference: Annotated[float, Field(ge=0, le=100)]


class QuantizedNet(Frozen):
    """What the manifest says of it.

    Attributes
    ----------
    weights : WeightsFile
    made_with : str
        Library and version.
    calibration_slices : int
        Slices from which the ranges of all activations were taken.
    agreement : Agreement
    """

    weights: WeightsFile
    made_with: Annotated[str, Field(min_length=1, max_length=200)]
    calibration_slices: Annotated[int, Field(gt=0)]
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Int8Network:
    """A network in OpenVINO's intermediate representation.

    Attributes
    ----------
    structure : bytes
        The XML document.
    numbers : bytes
        What it refers to.
    """

    structure: bytes
    numbers: bytes

    def tensors(self) -> dict[str, Tensor]:
        """Return it as a safetensors file holds it."""
        return {
            name: torch.frombuffer(bytearray(content), dtype=torch.uint8)
            for name, content in (("structure", self.structure), ("numbers", self.numbers))
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], file: str) -> Int8Network:
        """Read it.

        Raises
        ------
        BundleError
            `file` holds something else.
        """
        if set(tensors) != {"structure", "numbers"} or any(
            tensor.dtype != torch.uint8 for tensor in tensors.values()
        ):
            raise BundleError(f"{file} holds no int8 network")
        structure, numbers = (tensors[name].numpy().tobytes() for name in ("structure", "numbers"))
        return cls(structure, numbers)


def identity_in_int8(identity: ModelIdentity) -> ModelIdentity:
    """Return who reads when the int8 network does: other numbers, so another name.

    Its objects have UIDs of their own, and its readings are not compared with those of float32.
    """
    digest = hashlib.sha256(f"{identity.sha256} int8".encode()).hexdigest()
    return replace(identity, version=f"{identity.version}+int8", sha256=digest)
