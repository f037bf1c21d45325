"""From runs to a bundle that a node can load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from inference.bundle import Manifest, write_bundle
from inference.domain import Training
from inference.patient_net import PatientNet
from inference.slice_net import SliceNet
from training.durable import file_digest
from training.errors import CheckpointError
from training.joint import load_patient_net
from training.patients import load_slice_net
from training.run_folder import BEST, RunRecord, load_weights, read_record

__all__ = ["LIMITS", "export_bundle"]

LIMITS = {
    Training.DEMONSTRATION: (
        "Demonstration model, trained on synthetic patients: not for clinical use. It shows what "
        "the software does; its readings of real people mean nothing reliable."
    ),
    Training.SITE: (
        "Trained on one site's studies with that site's labels: not validated elsewhere, not a "
        "medical device; its readings are a second opinion for research."
    ),
}


def export_bundle(
    slices: Path,
    patients: Path,
    out: Path,
    *,
    name: str,
    version: str,
    training: Training = Training.DEMONSTRATION,
    limits: str = "",
    description: str = "",
    joint: Path | None = None,
    calibration: Mapping[str, float] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Manifest:
    """Write a bundle of the best weights of two runs.

    Parameters
    ----------
    slices, patients : Path
        Runs of ``train slices`` and ``train patients``.
    out : Path
        Folder of the bundle.
    name, version : str
    training : Training
    limits : str
        What the model must not be used for; empty takes :data:`LIMITS`.
    description : str
        What it was trained on, in words; empty counts the patients.
    joint : Path or None
        A run of ``train joint`` that started from both; its weights are taken then.
    calibration : mapping or None
        Fields of :class:`inference.bundle.Calibration`; None leaves all temperatures at 1.
    metrics : mapping or None
        What an evaluation measured.

    Returns
    -------
    Manifest
        The crop's input size is that of the slice run's last stage (or of the joint run's).

    Raises
    ------
    CheckpointError
        The runs do not belong together.
    BundleError
    """
    record = read_record(slices)
    slice_net, patient_net = load_slice_net(slices), load_patient_net(patients)
    _require_pair(slices, patients)
    if joint is not None:
        record = _load_joint(joint, slices, patients, slice_net, patient_net)
    counts: dict[str, int] = record.cache["train_patients"]
    words = ", ".join(f"{count} {label}" for label, count in counts.items())
    return write_bundle(
        out,
        {
            "name": name,
            "version": version,
            "training": training,
            "limits": limits or LIMITS[training],
            "architecture": {
                "slice_net": asdict(slice_net.parameters_),
                "patient_net": asdict(patient_net.parameters_),
            },
            "preprocessing": {"crop": asdict(record.crop)},
            "calibration": dict(calibration or {}),
            "training_data": {
                "description": description or f"{sum(counts.values())} patients: {words}",
                "sha256": record.cache["cohort_sha256"],
                "patients": counts,
            },
            "metrics": dict(metrics or {}),
        },
        slice_net,
        patient_net,
    )


def _require_pair(slices: Path, patients: Path) -> None:
    if read_record(patients).start.get("slices") != file_digest(slices / BEST):
        raise CheckpointError(f"{patients} was trained on features of another run than {slices}")


def _load_joint(
    joint: Path, slices: Path, patients: Path, slice_net: SliceNet, patient_net: PatientNet
) -> RunRecord:
    record = read_record(joint)
    if record.kind != "joint":
        raise CheckpointError(f"{joint} is a run of {record.kind}, not a joint one")
    for name, run in (("slices", slices), ("patients", patients)):
        if record.start.get(name) != file_digest(run / BEST):
            raise CheckpointError(f"{joint} did not start from {run}")
    load_weights(slice_net, joint, "slice_net.")
    load_weights(patient_net, joint, "patient_net.")
    return record
