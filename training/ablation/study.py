"""The study: each row trained once, read once on the test patients, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from inference import nonparametric
from inference.domain import DiseaseClass
from inference.engine import DeviceName, Precision, choose_device
from inference.patient_net import PatientNet
from inference.slice_net import SliceNet
from training.ablation.footprint import Footprint
from training.ablation.max_pooling import MaxPoolingNet, train_max_pooling
from training.ablation.row_result import RowCost, RowResult, load_result, save_result
from training.ablation.rows import FEATURES_ROW, ROWS, Row
from training.ablation.settings import AblationSettings
from training.baselines.rival_training import predict_baseline, train_baseline
from training.baselines.rivals import RIVALS
from training.cohort.cache import CohortCache
from training.errors import CacheError, CheckpointError
from training.features import PatientFeatures, slice_features
from training.joint import load_patient_net
from training.loop import TrainingProgress
from training.patients import load_slice_net, train_patients
from training.processes import join_processes
from training.run_folder import load_weights
from training.slice_batches import SliceTable
from training.slices import train_slices
from training.weak_labels import first_labels

__all__ = ["Study"]

Progress = Callable[[str, int, int], None]
Reading = tuple[list[list[float]], list[int] | None]


class Study:
    """Trains and reads rows in a folder, going on where it was ended.

    Parameters
    ----------
    cache : CohortCache
        Needs patients in all three parts.
    out : Path
        ``rows/<key>/run`` holds the training, ``rows/<key>/result.json`` the finished row.
    settings : AblationSettings
    device, precision : str
    progress : callable or None
        Called with (row and stage in words, done, total).

    Raises
    ------
    CacheError
        A part of the cohort is empty.
    """

    def __init__(
        self,
        cache: CohortCache,
        out: Path,
        settings: AblationSettings,
        *,
        device: DeviceName = "auto",
        precision: Precision = "auto",
        progress: Progress | None = None,
    ) -> None:
        for part in ("train", "validation", "test"):
            if not any(patient.split == part for patient in cache.patients):
                raise CacheError(f"{cache.directory} has no {part} patients")
        self._cache, self._out, self._settings = cache, out, settings
        self._device, self._precision = device, precision
        self._where = choose_device(device)
        self._progress = progress
        self._test = cache.patients_of("test")
        self._size = min(settings.input_size or cache.size, cache.size)

    def run(self, rows: Sequence[Row]) -> Iterator[tuple[RowResult, bool]]:
        """Finish rows, in order, and hand out each, with True where it was finished just now.

        Raises
        ------
        CheckpointError
            The folder holds rows of other settings or of another cohort.
        LossDiverged, DeviceError
        """
        for number, row in enumerate(rows, start=1):
            recipe = self._settings.document(row, self._cache.size)
            folder = self._folder(row.key)
            result = load_result(folder, recipe, self._cache.digest)
            new = result is None
            if result is None:
                folder.mkdir(parents=True, exist_ok=True)
                result = self._finish(row, recipe, f"{number}/{len(rows)} {row.key}")
                save_result(folder, result)
            yield result, new

    def _finish(self, row: Row, recipe: dict[str, object], words: str) -> RowResult:
        folder = self._folder(row.key)
        feature_seconds = self._read_features(words) if row.kind == "head" else 0.0
        footprint = Footprint(folder / "cost.json", self._where)

        def steps(stage: str, done: int, total: int) -> None:
            footprint.tick()
            if self._progress is not None:
                self._progress(f"{words}: {stage}", done, total)

        with footprint.measured():
            net = self._train(row, folder / "run", TrainingProgress(steps=steps))
        cost = footprint.cost
        began = time.monotonic()
        probabilities, predicted = self._read(row, net, steps)
        return RowResult(
            key=row.key,
            recipe=recipe,
            cache=self._cache.digest,
            patient_ids=tuple(patient.patient_id for patient in self._test),
            labels=tuple(int(patient.label) for patient in self._test),
            probabilities=tuple((p[0], p[1], p[2], p[3]) for p in probabilities),
            predicted=None if predicted is None else tuple(predicted),
            cost=RowCost(
                input_size=self._input_size(row, net),
                epochs=self._epochs(row),
                devices=1,
                device=_device_words(self._where),
                seconds=cost.seconds,
                read_seconds=time.monotonic() - began,
                feature_seconds=feature_seconds,
                peak_mib=cost.peak_mib,
                parameters=sum(weight.numel() for weight in net.parameters()),
                data=self._data(row),
            ),
        )

    def _train(self, row: Row, run: Path, progress: TrainingProgress) -> nn.Module:
        """Train a row to its end; the network with its best weights."""
        cache, settings = self._cache, self._settings
        device, precision = self._device, self._precision
        if row.kind == "slices":
            slice_recipe = settings.slice_recipe(row, cache.size)
            train_slices(
                cache, run, slice_recipe, progress=progress, device=device, precision=precision
            )
            return load_slice_net(run)
        if row.kind == "rival":
            rival_recipe = settings.rival_recipe(row, cache.size)
            train_baseline(
                row.key, cache, run, rival_recipe, progress=progress, device=device,
                precision=precision,
            )  # fmt: skip
            net = RIVALS[row.key].make(rival_recipe.volume.input_channels, rival_recipe.backbone)
            load_weights(net, run)
            return net
        recipe = settings.patient_recipe(row)
        slices = self._folder(FEATURES_ROW) / "run"
        if row.key != "head-max":
            train_patients(
                cache, slices, run, recipe, progress=progress, device=device, precision=precision
            )
            return load_patient_net(run)
        slice_net = load_slice_net(slices)
        train_max_pooling(
            cache, slices, slice_net, self._size, run, recipe, progress=progress, device=device,
            precision=precision,
        )  # fmt: skip
        head = MaxPoolingNet(slice_net.feature_size, recipe.net.reduced_size)
        load_weights(head, run)
        return head.eval()

    def _read(self, row: Row, net: nn.Module, progress: Progress) -> Reading:
        """Read the test patients: probabilities, and classes where a rule decides them."""
        if row.kind == "rival":
            recipe = self._settings.rival_recipe(row, self._cache.size)
            run = self._folder(row.key) / "run"
            _, found = predict_baseline(
                row.key, self._cache, run, recipe, device=self._device,
                precision=self._precision, progress=progress,
            )  # fmt: skip
            return found.tolist(), None
        if isinstance(net, SliceNet):
            features = self._features(net, progress, test_only=True)
            counted = [
                count_slices(features[patient.patient_id], net.parameters_.multitask)
                for patient in self._test
            ]
            return [shares for shares, _ in counted], [int(disease) for _, disease in counted]
        features = self._features(load_slice_net(self._folder(FEATURES_ROW) / "run"), progress)
        rows = []
        with torch.inference_mode():
            for patient in self._test:
                one = torch.from_numpy(features[patient.patient_id].features)[None]
                rows.append(net(one).softmax(dim=1)[0].double().tolist())
        return rows, None

    def _features(
        self, net: SliceNet, progress: Progress, *, test_only: bool = False
    ) -> dict[str, PatientFeatures]:
        with join_processes(self._device, self._precision) as processes:
            return slice_features(
                self._cache,
                net,
                processes.device,
                patients=self._test if test_only else None,
                size=self._size,
                dtype=processes.dtype,
                progress=progress,
            )

    def _read_features(self, words: str) -> float:
        """Make the features of all patients before a head needs them; what that cost, ever."""
        slices = self._folder(FEATURES_ROW)
        if not (slices / "result.json").is_file():
            raise CheckpointError(f"{slices} holds no finished row, whose features are needed")
        footprint = Footprint(slices / "features_cost.json", self._where)
        finished = slices / "features_done"
        if finished.exists():
            return footprint.cost_before.seconds

        def steps(stage: str, done: int, total: int) -> None:
            footprint.tick()
            if self._progress is not None:
                self._progress(f"{words}: {stage}", done, total)

        with footprint.measured():
            self._features(load_slice_net(slices / "run"), steps)
        finished.touch()
        return footprint.cost.seconds

    def _folder(self, key: str) -> Path:
        return self._out / "rows" / ROWS[key].key

    def _epochs(self, row: Row) -> int:
        if row.kind == "rival":
            return self._settings.rival_recipe(row, self._cache.size).epochs
        recipe = (
            self._settings.slice_recipe(row, self._cache.size)
            if row.kind == "slices"
            else self._settings.patient_recipe(row)
        )
        return sum(stage.epochs for stage in recipe.stages)

    def _input_size(self, row: Row, net: nn.Module) -> str:
        if row.kind == "rival":
            recipe = self._settings.rival_recipe(row, self._cache.size)
            shape = recipe.volume
            return f"{recipe.batch}×{shape.input_channels}×{shape.slices}×{shape.size}×{shape.size}"
        if row.kind == "slices":
            batch = self._settings.slice_recipe(row, self._cache.size).batch
            return f"{batch}×3×1×{self._size}×{self._size}"
        width = (
            net.parameters_.feature_size
            if isinstance(net, PatientNet)
            else net.get_submodule("reduce").in_features
        )
        return f"{self._settings.patient_recipe(row).batch}×{width}×N×1×1"

    def _data(self, row: Row) -> str:
        train = self._cache.patients_of("train")
        if row.kind != "slices":
            return f"{len(train)} volumes"
        recipe = self._settings.slice_recipe(row, self._cache.size)
        table = SliceTable.of(train, first_labels(train), normal_slices=recipe.normal_slices)
        return f"{len(table)} slices"


def count_slices(found: PatientFeatures, multitask: bool) -> tuple[list[float], DiseaseClass]:
    """The rule of the Appendix (T = 0.99) on one patient.

    Parameters
    ----------
    found : PatientFeatures
        Slice scores, averaged over the window centres.
    multitask : bool
        False: the network has no lesion head, and p = Pm, the class head alone. That is the
        rule's p0 = Pl0 + Pl1·Pm0, pk = Pl1·Pmk with Pl1 = 1.

    Returns
    -------
    list of 4 float
        Shares of the slices called each class.
    DiseaseClass
    """
    lesion = found.lesion if multitask else np.ones_like(found.lesion)
    counted = nonparametric.assess(lesion, found.probabilities)
    return [count / len(lesion) for count in counted.counts], counted.predicted


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
