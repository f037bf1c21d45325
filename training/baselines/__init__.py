"""The rivals of Table II, written afresh from their papers and trained on the same cohort."""

from training.baselines.recipe import BaselineRecipe
from training.baselines.rival_training import predict_baseline, train_baseline
from training.baselines.rivals import RIVALS, Rival
from training.baselines.volumes import VolumeParameters

__all__ = [
    "RIVALS",
    "BaselineRecipe",
    "Rival",
    "VolumeParameters",
    "predict_baseline",
    "train_baseline",
]
