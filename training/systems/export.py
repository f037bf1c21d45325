"""From runs of the two systems to bundles that a node can load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from inference.domain import DiseaseClass, Training
from inference.jcs.bundle import JcsManifest, write_jcs
from inference.jcs.network import JcsNet
from inference.m2unet.bundle import M2UNetManifest, write_m2unet
from inference.m2unet.network import M2UNet
from inference.system_bundle import ONE_WINDOW
from training.errors import CheckpointError
from training.export import LIMITS
from training.recipe import read_recipe
from training.run_folder import RunRecord, load_weights, read_record
from training.systems.jcs_training import JCS, load_parts
from training.systems.m2unet_training import M2UNET
from training.systems.recipe import JcsRecipe, M2UNetRecipe

__all__ = ["export_jcs", "export_m2unet"]


def export_m2unet(
    run: Path,
    out: Path,
    *,
    name: str,
    version: str,
    training: Training = Training.DEMONSTRATION,
    limits: str = "",
    metrics: Mapping[str, float] | None = None,
) -> M2UNetManifest:
    """Write a bundle of the best weights of a run of ``train m2unet``.

    Raises
    ------
    CheckpointError, BundleError
    """
    record = read_record(run)
    if record.kind != M2UNET:
        raise CheckpointError(f"{run} is a run of {record.kind}, not of M²UNet")
    recipe = read_recipe(record.recipe, M2UNetRecipe)
    net = M2UNet(recipe.net)
    load_weights(net, run, "net.")
    fields = _common(record, name, version, training, limits, metrics)
    return write_m2unet(out, fields | {"architecture": asdict(recipe.net)}, net)


def export_jcs(
    classification: Path,
    segmentation: Path,
    out: Path,
    *,
    joint: Path | None = None,
    name: str,
    version: str,
    training: Training = Training.DEMONSTRATION,
    limits: str = "",
    metrics: Mapping[str, float] | None = None,
) -> JcsManifest:
    """Write a bundle of the best weights of both parts, or of the joint run from them.

    Raises
    ------
    CheckpointError, BundleError
    """
    run = joint or segmentation
    record = read_record(run)
    recipe = read_recipe(record.recipe, JcsRecipe)
    if record.kind != JCS or recipe.part != ("segmentation" if joint is None else "joint"):
        raise CheckpointError(f"{run} is no such run of JCS")
    architecture = replace(recipe.net, joint=joint is not None)
    net = JcsNet(architecture)
    if joint is None:
        load_parts(net, classification, segmentation)
    else:
        load_weights(net, joint, "net.")
    fields = _common(record, name, version, training, limits, metrics)
    fields |= {
        "architecture": asdict(architecture),
        "positive": [DiseaseClass(one).key for one in recipe.positive],
        "negative": [DiseaseClass(one).key for one in recipe.negative],
    }
    return write_jcs(out, fields, net)


def _common(
    record: RunRecord,
    name: str,
    version: str,
    training: Training,
    limits: str,
    metrics: Mapping[str, float] | None,
) -> dict[str, object]:
    counts: dict[str, int] = record.cache["train_patients"]
    words = ", ".join(f"{count} {label}" for label, count in counts.items())
    return {
        "name": name,
        "version": version,
        "training": training,
        "limits": limits or LIMITS[training],
        "preprocessing": {"crop": asdict(record.crop), "window": asdict(ONE_WINDOW)},
        "training_data": {
            "description": f"{sum(counts.values())} patients: {words}",
            "sha256": record.cache["cohort_sha256"],
            "patients": counts,
        },
        "metrics": dict(metrics or {}),
    }
