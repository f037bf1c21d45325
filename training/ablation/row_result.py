"""What a finished row leaves behind: one file, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.durable import write_durably
from training.errors import CheckpointError

__all__ = ["RowCost", "RowResult", "load_result", "save_result"]

RESULT = "result.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowCost(_Frozen):
    """A row of Table III, measured.

    Attributes
    ----------
    input_size : str
        B x C x T x H x W.
    epochs : int
    devices : int
    device : str
        In words.
    seconds, read_seconds : float
        Of training, and of reading the test patients.
    feature_seconds : float
        Of reading all patients' features for the heads; 0 for rows that need none.
    peak_mib : float or None
        While training.
    parameters : int
        Of the network.
    data : str
        What it was trained on.
    """

    input_size: str
    epochs: int
    devices: int
    device: str
    seconds: float
    read_seconds: float
    feature_seconds: float = 0.0
    peak_mib: float | None
    parameters: int
    data: str


class RowResult(_Frozen):
    """Readings of the test patients and what they cost.

    Attributes
    ----------
    key : str
        Of the row.
    recipe : dict
        What was trained, as in the run's record.
    cache : str
        Digest of the cohort's cache.
    patient_ids, labels, probabilities : lists, one entry for each patient
        For rows read by counting slices, the probabilities are the shares of slices.
    predicted : list of int or None
        Where a rule other than the largest probability decides.
    """

    key: str
    recipe: dict[str, Any]
    cache: str
    patient_ids: tuple[str, ...]
    labels: tuple[Annotated[int, Field(ge=0, le=3)], ...]
    probabilities: tuple[tuple[float, float, float, float], ...]
    predicted: tuple[int, ...] | None = None
    cost: RowCost

    def arrays(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64] | None]:
        """Labels (P,), probabilities (P, 4) and predictions (P,) or None."""
        predicted = None if self.predicted is None else np.array(self.predicted, dtype=np.int64)
        probabilities = np.array(self.probabilities, dtype=np.float64).reshape(-1, 4)
        return np.array(self.labels, dtype=np.int64), probabilities, predicted


def save_result(folder: Path, result: RowResult) -> None:
    """Write a result in one step."""
    write_durably(folder / RESULT, result.model_dump_json(indent=1).encode())


def load_result(folder: Path, recipe: dict[str, Any], cache: str) -> RowResult | None:
    """Result of a row, None where it is not finished.

    Raises
    ------
    CheckpointError
        It is of another recipe or cohort, or no result.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result = RowResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{path} is no result of a row") from error
    if result.cache != cache:
        raise CheckpointError(f"{path} is of another cohort; take another folder")
    for name in sorted(recipe.keys() | result.recipe.keys()):
        if recipe.get(name) != result.recipe.get(name):
            raise CheckpointError(
                f"{path} is of another {name}: {result.recipe.get(name)}, now {recipe.get(name)}; "
                "take another folder"
            )
    return result
