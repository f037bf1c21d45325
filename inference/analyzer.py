"""The one door: a volume in, findings out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inference import burden, nonparametric
from inference.anatomy import require_chest, require_lung
from inference.bundle import Bundle, Manifest, load_bundle
from inference.domain import (
    CtVolume,
    DiseaseClass,
    Findings,
    ModelIdentity,
    NonparametricFindings,
    PatientFindings,
    QualityStatement,
    SliceFindings,
)
from inference.engine import (
    DeviceName,
    EngineName,
    Precision,
    SliceEngine,
    SliceReadings,
    make_engine,
)
from inference.lesion_map import to_source_grid
from inference.lung_crop import LungCrop, crop_lungs, crop_to_input
from inference.patient_net import PatientNet
from inference.quality import MINIMUM_SLICES, assess_quality
from inference.quantized import identity_in_int8
from inference.systems import OtherSystems, disagreements, involved_lobes

__all__ = ["Analyzer"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Analyzer:
    """A loaded model on a device. Safe to use for one series after another.

    Make one with :meth:`load`.
    """

    manifest: Manifest
    identity: ModelIdentity
    engine: SliceEngine
    patient_net: PatientNet
    batch_slices: int = 8
    threads: int = 0
    others: OtherSystems = field(default_factory=OtherSystems)

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        engine: EngineName = "auto",
        device: DeviceName = "auto",
        precision: Precision = "auto",
        batch_slices: int = 8,
        threads: int = 0,
        m2unet: Path | None = None,
        jcs: Path | None = None,
    ) -> Analyzer:
        """Load a bundle onto a device.

        Parameters
        ----------
        directory : Path
            Of the bundle.
        engine : "auto", "torch" or "openvino"
            auto: OpenVINO on a CPU, torch on a GPU.
        device : "auto", "cpu" or "cuda"
        precision : "auto", "float32", "bfloat16" or "int8"
            auto: bfloat16 where the device computes in it (see :func:`choose_precision`). int8 is
            of the main model's slice network; the two other systems run as by auto then.
        batch_slices : int
            Slices per forward pass.
        threads : int
            CPU threads; 0 leaves torch's own choice. Holds for the whole process.
        m2unet, jcs : Path or None
            Bundles of the two other systems; None: they do not run.

        Raises
        ------
        BundleError, DeviceError
        """
        if batch_slices < 1:
            raise ValueError("batch_slices is at least 1")
        bundle: Bundle = load_bundle(directory)
        if threads > 0:
            torch.set_num_threads(threads)
        slice_engine = make_engine(
            bundle, name=engine, device=device, precision=precision, threads=threads
        )
        return cls(
            bundle.manifest,
            identity_in_int8(bundle.identity) if precision == "int8" else bundle.identity,
            slice_engine,
            bundle.patient_net,
            batch_slices,
            threads,
            OtherSystems.load(
                bundle.manifest.preprocessing.crop,
                m2unet=m2unet,
                jcs=jcs,
                device=device,
                precision="auto" if precision == "int8" else precision,
                batch=batch_slices,
            ),
        )

    @property
    def identities(self) -> tuple[ModelIdentity, ...]:
        """Every model that reads, the main one first."""
        readers = (self.others.lobes, self.others.lesions)
        others = [reader.bundle.identity for reader in readers if reader is not None]
        return (self.identity, *others)

    def analyze(
        self,
        volume: CtVolume,
        *,
        progress: Progress | None = None,
        slice_level: bool = False,
    ) -> Findings:
        """Read one series.

        Parameters
        ----------
        volume : CtVolume
        progress : callable or None
            Called with (stage, done, total), stage one of ``crop``, ``slices``, ``patient``,
            ``lobes``, ``lesions``, after each slice of the crop and each window of each batch.
        slice_level : bool
            Slice readings and maps only, no patient reading. Fewer than 20 slices are always
            read this way.

        Returns
        -------
        Findings
            Slices without lung are not shown to the network: they are Healthy with probability
            1, without lesion, marked ``has_lung=False``, take no part in the patient's reading,
            and a quality statement counts them **(decided)**.

        Raises
        ------
        NotAChestCt
            No two air-filled lungs.
        """
        clock = _Clock()
        whole = not slice_level and len(volume) >= MINIMUM_SLICES
        with clock.stage("crop"):
            crop = crop_lungs(
                volume.hu,
                volume.pixel_spacing_mm,
                self.manifest.preprocessing.crop,
                threads=self.threads,
                progress=progress,
            )
            (require_chest if whole else require_lung)(volume, crop)
        with clock.stage("slices"):
            readings, lesion_map = self._read_slices(volume, crop, progress)
        with clock.stage("patient"):
            patient, counted = self._read_patient(readings) if whole else (None, None)
            if progress is not None:
                progress("patient", 1, 1)
        with clock.stage("burden"):
            threshold = self.identity.lesion_threshold
            lung_px, lesion_px = burden.lesion_areas(lesion_map, crop.mask, threshold)
            measured = burden.measure(volume, lesion_map, crop.mask, threshold)
        with clock.stage("systems"):
            other = self.others.read(volume, crop, whole=whole, progress=progress)
        if other.lobes is None and other.segmented is None:
            clock.seconds.pop("systems")
        findings = Findings(
            model=self.identity,
            slices=_slice_findings(volume, crop, readings, lung_px, lesion_px),
            patient=patient,
            nonparametric=counted,
            burden=measured,
            lesion_map=lesion_map,
            lung_mask=crop.mask,
            quality=self._quality(volume, crop, patient, counted, slice_level=slice_level),
            timing_s=clock.seconds,
            lobes=other.lobes,
            segmented=other.segmented,
        )
        return replace(
            findings,
            involvement=involved_lobes(findings),
            quality=findings.quality + disagreements(findings),
        )

    def _read_slices(
        self, volume: CtVolume, crop: LungCrop, progress: Progress | None
    ) -> tuple[SliceReadings, NDArray[np.float16]]:
        """Readings of the slices with lung, in order, and their maps on the source's grid.

        While the network reads one batch, a thread beside it crops the next and puts the maps of
        the last one where they belong: a GPU waits for neither.
        """
        chosen = np.flatnonzero(crop.has_lung)
        windows = len(self.manifest.preprocessing.window.centers_hu)
        total, done = len(chosen) * windows, 0
        lesion_map = np.zeros(volume.hu.shape, dtype=np.float16)

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress("slices", done, total)

        step = self.batch_slices
        batches = [chosen[start : start + step] for start in range(0, len(chosen), step)]
        parts: list[SliceReadings] = []
        placed: list[Future[None]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="beside-the-network") as beside:
            following = beside.submit(self._crops, volume, crop, batches[0])
            for number, batch in enumerate(batches):
                crops = following.result()
                if number + 1 < len(batches):
                    following = beside.submit(self._crops, volume, crop, batches[number + 1])
                parts.append(self.engine.read(crops, tick))
                maps = parts[-1].maps
                placed.append(beside.submit(_place, lesion_map, volume, crop, batch, maps))
            for each in placed:
                each.result()
        return SliceReadings.join(parts), lesion_map

    def _crops(
        self, volume: CtVolume, crop: LungCrop, batch: NDArray[np.intp]
    ) -> NDArray[np.int16]:
        parameters = self.manifest.preprocessing.crop
        planes = [crop_to_input(volume.hu[i], crop.boxes[i], parameters) for i in batch]
        return np.ascontiguousarray(np.stack(planes)[volume.as_displayed])

    def _read_patient(
        self, readings: SliceReadings
    ) -> tuple[PatientFindings, NonparametricFindings]:
        with torch.inference_mode():
            logits = self.patient_net(torch.from_numpy(readings.features)[None])
            logits = logits / self.manifest.calibration.patient_temperature
            healthy, covid19, h1n1, cap = logits.softmax(dim=1)[0].double().tolist()
        counted = nonparametric.assess(
            readings.lesion_probability,
            readings.probabilities,
            self.manifest.thresholds.nonparametric_healthy,
        )
        return PatientFindings((healthy, covid19, h1n1, cap)), counted

    def _quality(
        self,
        volume: CtVolume,
        crop: LungCrop,
        patient: PatientFindings | None,
        counted: NonparametricFindings | None,
        *,
        slice_level: bool,
    ) -> tuple[QualityStatement, ...]:
        return volume.quality + assess_quality(
            crop, self.identity.training, patient, counted, slice_level=slice_level
        )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _place(
    lesion_map: NDArray[np.float16],
    volume: CtVolume,
    crop: LungCrop,
    batch: NDArray[np.intp],
    maps: NDArray[np.float32],
) -> None:
    """Write the maps of a batch into `lesion_map`, each where its crop came from."""
    planes = np.ascontiguousarray(maps[volume.as_displayed])
    targets = [lesion_map[i] for i in batch]  # views: written in place
    to_source_grid(planes, [crop.boxes[i] for i in batch], targets)


def _slice_findings(
    volume: CtVolume,
    crop: LungCrop,
    readings: SliceReadings,
    lung_px: NDArray[np.int64],
    lesion_px: NDArray[np.int64],
) -> tuple[SliceFindings, ...]:
    lesion = np.zeros(len(volume))
    classes = np.zeros((len(volume), len(DiseaseClass)))
    classes[:, DiseaseClass.HEALTHY] = 1.0
    lesion[crop.has_lung] = readings.lesion_probability
    classes[crop.has_lung] = readings.probabilities
    return tuple(
        SliceFindings(
            reference=volume.slices[index],
            z_mm=float(volume.z_mm[index]),
            lesion_probability=float(lesion[index]),
            probabilities=(float(p[0]), float(p[1]), float(p[2]), float(p[3])),
            lung_box=crop.boxes[index],
            has_lung=bool(crop.has_lung[index]),
            lung_area_px=int(lung_px[index]),
            lesion_area_px=int(lesion_px[index]),
        )
        for index, p in enumerate(classes)
    )
