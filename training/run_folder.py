"""A run's folder: checkpoint, best weights, metrics, recipe, TensorBoard.

::

    RUN/recipe.json        kind, recipe, cache, what it started from
    RUN/checkpoint.pt      everything to go on exactly
    RUN/best.safetensors   the weights with the best validation so far
    RUN/metrics.jsonl      one line per epoch
    RUN/tensorboard/
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from inference.lung_crop import CropParameters
from training.cohort.cache import CohortCache
from training.durable import write_durably
from training.errors import CheckpointError

__all__ = ["RunFolder", "RunRecord", "cache_record", "load_weights", "read_record", "read_weights"]

CHECKPOINT = "checkpoint.pt"
BEST = "best.safetensors"
RECIPE = "recipe.json"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is; the same record means the same result.

    Attributes
    ----------
    kind : str
        ``slices``, ``patients``, ``joint``, ``m2unet`` or ``jcs``.
    recipe : dict
        JSON values of the recipe.
    cache : dict
        The cache trained on: ``sha256``, ``cohort_sha256``, ``crop``, ``train_patients`` by class.
    start : dict of str to str
        What the weights started from, by digest.
    """

    kind: str
    recipe: dict[str, Any]
    cache: dict[str, Any]
    start: dict[str, str]

    @property
    def crop(self) -> CropParameters:
        """Crop of the network's input as it was trained last (the last stage's size)."""
        crop = CropParameters(**self.cache["crop"])
        size = self.recipe["stages"][-1]["size"] if self.kind != "patients" else 0
        return replace(crop, input_size=size or crop.input_size)

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": self.kind,
            "recipe": self.recipe,
            "cache": self.cache,
            "start": self.start,
        }


def cache_record(cache: CohortCache) -> dict[str, Any]:
    """Return :attr:`RunRecord.cache` of a cache."""
    counts = Counter(patient.label.key for patient in cache.patients_of("train"))
    return {
        "sha256": cache.digest,
        "cohort_sha256": cache.cohort_digest,
        "crop": asdict(cache.crop),
        "train_patients": dict(sorted(counts.items())),
    }


class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    directory : Path
        Made if missing. Where it holds a run already, that run is gone on with.
    record : RunRecord

    Raises
    ------
    CheckpointError
        The folder holds another run, or other files.
    """

    def __init__(self, directory: Path, record: RunRecord, *, writes: bool = True) -> None:
        self.directory = directory
        self._record = record
        self._writes = writes
        self._board: Any = None
        known = directory / RECIPE
        if known.is_file():
            _require_same(directory, read_record(directory), record)
        elif directory.is_dir() and any(directory.iterdir()):
            raise CheckpointError(f"{directory} is not empty and holds no run")
        elif writes:
            directory.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record.document(), indent=2, sort_keys=True) + "\n"
            write_durably(known, text.encode())

    def load(self) -> dict[str, Any] | None:
        """Return the last checkpoint, None if none was written yet.

        Raises
        ------
        CheckpointError
            It cannot be read.
        """
        path = self.directory / CHECKPOINT
        if not path.is_file():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is no checkpoint") from error
        if not isinstance(state, dict) or state.get("record") != self._record.document():
            raise CheckpointError(f"{path} belongs to another run")
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint in one step; the recipe goes inside."""
        if not self._writes:
            return
        content = io.BytesIO()
        torch.save({**state, "record": self._record.document()}, content)
        write_durably(self.directory / CHECKPOINT, content.getvalue())

    def save_best(self, net: nn.Module) -> None:
        """Replace the best weights in one step."""
        if self._writes:
            tensors = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
            write_durably(self.directory / BEST, save_safetensors(tensors))

    @contextmanager
    def metrics(self, history: list[dict[str, float]]) -> Iterator[None]:
        """Open TensorBoard; bring metrics.jsonl back to `history`, that of the checkpoint."""
        if not self._writes:
            yield
            return
        lines = "".join(json.dumps(epoch) + "\n" for epoch in history)
        write_durably(self.directory / METRICS, lines.encode())
        self._board = _open_board(
            self.directory / "tensorboard", int(history[-1]["epoch"]) if history else 0
        )
        try:
            yield
        finally:
            if self._board is not None:
                self._board.close()

    def add_metrics(self, epoch: dict[str, float]) -> None:
        """Append one epoch's line and scalars."""
        if not self._writes:
            return
        with (self.directory / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(epoch) + "\n")
        if self._board is not None:
            for name, value in epoch.items():
                if name != "epoch":
                    self._board.add_scalar(name, value, int(epoch["epoch"]))
            self._board.flush()


def _open_board(directory: Path, epoch: int) -> Any:
    """TensorBoard's writer; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protobuf and numpy, at import
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Scalars of epochs that were lost by a kill are hidden.
    return SummaryWriter(str(directory), purge_step=epoch + 1)


def _require_same(directory: Path, known: RunRecord, wanted: RunRecord) -> None:
    for name, a, b in (
        ("kind", known.kind, wanted.kind),
        ("cache", known.cache, wanted.cache),
        ("starting weights", known.start, wanted.start),
    ):
        if a != b:
            raise CheckpointError(f"{directory} holds a run with another {name}")
    for field in sorted(known.recipe.keys() | wanted.recipe.keys()):
        if known.recipe.get(field) != wanted.recipe.get(field):
            raise CheckpointError(
                f"{directory} holds a run with another {field}: {known.recipe.get(field)}, "
                f"now {wanted.recipe.get(field)}"
            )


def read_record(directory: Path) -> RunRecord:
    """Read ``recipe.json`` of a run.

    Raises
    ------
    CheckpointError
    """
    path = directory / RECIPE
    try:
        document = json.loads(path.read_bytes())
        return RunRecord(
            str(document["kind"]),
            dict(document["recipe"]),
            dict(document["cache"]),
            dict(document["start"]),
        )
    except OSError as error:
        raise CheckpointError(f"{directory} holds no run: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no record of a run") from error


def read_weights(run: Path) -> dict[str, Tensor]:
    """Read the best weights of a run (its folder, or the safetensors file itself).

    Raises
    ------
    CheckpointError
    """
    path = run / BEST if run.is_dir() else run
    try:
        state: dict[str, Tensor] = load_safetensors(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file") from error
    return state


def load_weights(net: nn.Module, run: Path, prefix: str = "") -> None:
    """Put the best weights of a run into `net`.

    Parameters
    ----------
    prefix : str
        Only tensors with this prefix count (a joint run holds two networks).

    Raises
    ------
    CheckpointError
        They do not fit.
    """
    state = {
        name.removeprefix(prefix): value
        for name, value in read_weights(run).items()
        if name.startswith(prefix)
    }
    wanted = net.state_dict()
    odd = sorted(wanted.keys() ^ state.keys())
    odd += [n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape]
    if odd:
        raise CheckpointError(
            f"the weights of {run} do not fit the network: {len(odd)} tensors differ, "
            f"such as {odd[0]}"
        )
    net.load_state_dict(state)
