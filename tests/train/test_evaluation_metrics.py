"""The figures of merit against scikit-learn, against the paper's own numbers, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    recall_score,
    roc_auc_score,
)
from sklearn.metrics import roc_curve as reference_roc

from inference.domain import DiseaseClass
from training.evaluation.bootstrap import draw_counts, intervals, paired_p_values
from training.evaluation.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scale,
)
from training.evaluation.localisation import (
    MapTally,
    best_threshold,
    dice,
    histogram_auc,
    points_at,
)
from training.evaluation.metrics import auc, confusion, patient_metrics, roc_curve


def drawn(seed: int, patients: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that lean to them, with ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, patients)
    logits = random.normal(size=(patients, 4)) + 1.5 * np.eye(4)[labels]
    powers = np.exp(np.round(logits, 1))
    return labels, powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed: int) -> None:
    labels, probabilities = drawn(seed)
    predicted = probabilities.argmax(axis=1)
    found = patient_metrics(labels, probabilities)
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert (confusion(labels, predicted) == confusion_matrix(labels, predicted)).all()
    for k in range(4):
        positive = labels == k
        assert found.auc[k] == pytest.approx(roc_auc_score(positive, probabilities[:, k]))
        called = predicted == k
        assert found.sensitivity[k] == pytest.approx(recall_score(positive, called))
        assert found.specificity[k] == pytest.approx(recall_score(~positive, ~called))


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_repetitions(seed: int) -> None:
    labels, probabilities = drawn(seed, 60)
    counts = np.random.default_rng(seed).multinomial(60, np.full(60, 1 / 60)).astype(float)
    again = np.repeat(np.arange(60), counts.astype(int))
    weighted = patient_metrics(labels, probabilities, counts).flat()
    repeated = patient_metrics(labels[again], probabilities[again]).flat()
    assert weighted == pytest.approx(repeated, nan_ok=True)


def test_scores_with_ties_and_the_curve() -> None:
    random = np.random.default_rng(3)
    positive = random.random(300) < 0.3
    scores = np.round(random.random(300) + 0.3 * positive, 1)
    weights = random.integers(0, 4, 300).astype(float)
    assert auc(positive, scores) == pytest.approx(roc_auc_score(positive, scores))
    expected = roc_auc_score(positive, scores, sample_weight=weights)
    assert auc(positive, scores, weights) == pytest.approx(expected)
    false, true, thresholds = roc_curve(positive, scores)
    theirs = reference_roc(positive, scores, drop_intermediate=False)
    for ours, reference in zip((false, true, thresholds), theirs, strict=True):
        assert ours == pytest.approx(reference)
    assert np.isnan(auc(np.ones(4, bool), scores[:4]))
    assert np.isnan(auc(np.zeros(0, bool), np.zeros(0)))


def test_errors_by_hand() -> None:
    healthy, covid, flu, cap = (int(d) for d in DiseaseClass)
    labels = np.array([healthy] * 4 + [covid] * 3 + [flu] * 2 + [cap])
    called = np.array([healthy, healthy, healthy, flu, covid, healthy, cap, flu, flu, healthy])
    found = patient_metrics(labels, np.eye(4)[called])
    assert found.fpe == pytest.approx(1 / 4)  # one of four healthy got a disease
    assert found.fne == pytest.approx(2 / 6)  # two of six patients were called healthy
    assert found.fdpe == pytest.approx(1 / 6)  # one got another disease
    assert found.accuracy == pytest.approx(6 / 10)
    assert found.sensitivity == pytest.approx((3 / 4, 1 / 3, 1.0, 0.0))
    assert found.specificity == pytest.approx((4 / 6, 1.0, 7 / 8, 8 / 9))


def test_the_papers_errors_add_up() -> None:
    """Table I and II: 292 patients, accuracy 95.21 %; 3 + 8 + 3 errors give FPE, FNE, FDPE."""
    labels = np.repeat([0, 1, 2, 3], [102, 96, 41, 53])
    called = labels.copy()
    called[:3] = 1
    called[-8:] = 0
    called[-11:-8] = 1
    found = patient_metrics(labels, np.eye(4)[called])
    assert 100 * found.accuracy == pytest.approx(95.21, abs=0.01)
    assert 100 * np.array([found.fpe, found.fne, found.fdpe]) == pytest.approx(
        [2.83, 4.15, 1.57], abs=0.15
    )


def test_absent_classes_and_bad_input() -> None:
    found = patient_metrics(np.array([0, 0]), np.eye(4)[[0, 1]])
    assert (found.accuracy, found.fpe) == (0.5, 0.5)
    assert np.isnan([found.fne, found.fdpe, found.sensitivity[1], found.auc[0]]).all()
    with pytest.raises(ValueError, match="a label is no class"):
        patient_metrics(np.array([4]), np.ones((1, 4)))
    with pytest.raises(ValueError, match="4 probabilities"):
        patient_metrics(np.array([1]), np.ones((1, 3)))
    with pytest.raises(ValueError, match="not a number"):
        patient_metrics(np.array([1]), np.full((1, 4), np.nan))


def test_the_rule_may_decide_otherwise_than_the_largest_share() -> None:
    shares = np.array([[0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = patient_metrics(np.array([1, 0]), shares, predicted=np.array([1, 0]))
    assert found.accuracy == 1.0
    assert found.auc[0] == 1.0


def test_intervals_cover_what_they_promise() -> None:
    """Of a share of 0.8 among 100 patients about 95 % of the intervals hold it."""
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = random.random(100) < 0.8

        def share(counts: np.ndarray, right: np.ndarray = right) -> dict[str, float]:
            return {"share": float(counts @ right / counts.sum())}

        found = intervals(share, 100, replicates=200, seed=trial)["share"]
        assert found.value == pytest.approx(right.mean())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.8 <= found.high
    assert 175 <= covered <= 199


def test_draws_are_seeded_and_whole() -> None:
    counts = draw_counts(37, replicates=50, seed=4)
    assert (counts.sum(axis=1) == 37).all()
    assert (counts == draw_counts(37, replicates=50, seed=4)).all()
    assert (counts != draw_counts(37, replicates=50, seed=5)).any()
    with pytest.raises(ValueError, match="no patients"):
        draw_counts(0)


def test_p_values() -> None:
    random = np.random.default_rng(1)
    good, bad = random.random(150) < 0.95, random.random(150) < 0.7

    def share(right: np.ndarray):  # type: ignore[no-untyped-def]
        return lambda counts: {"share": float(counts @ right / counts.sum())}

    difference, p = paired_p_values(share(good), share(bad), 150, seed=0)["share"]
    assert difference.value == pytest.approx(good.mean() - bad.mean())
    assert p is not None
    assert p < 0.01
    same, p = paired_p_values(share(good), share(good), 150, seed=0)["share"]
    assert (same.value, same.low, same.high, p) == (0.0, 0.0, 0.0, 1.0)
    undefined = paired_p_values(
        lambda c: {"x": float("nan")}, lambda c: {"x": 0.0}, 5, replicates=9
    )["x"]
    assert undefined[0].value is None
    assert undefined[1] is None


def test_p_values_of_equal_models_are_spread_evenly() -> None:
    random = np.random.default_rng(2)
    small = 0
    for trial in range(100):
        first, second = (random.random(80) < 0.8 for _ in range(2))
        statistics = [lambda c, r=right: {"x": float(c @ r / c.sum())} for right in (first, second)]
        p = paired_p_values(*statistics, 80, replicates=200, seed=trial)["x"][1]
        small += p is not None and p < 0.05
    assert small <= 12


def test_scores_of_calibration() -> None:
    labels, probabilities = drawn(7, 400)
    one_hot = np.eye(4)[labels]
    expected = sum(brier_score_loss(one_hot[:, k], probabilities[:, k]) for k in range(4))
    assert brier_score(labels, probabilities) == pytest.approx(expected)
    assert negative_log_likelihood(labels, probabilities) == pytest.approx(
        log_loss(labels, probabilities, labels=[0, 1, 2, 3])
    )


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    labels = np.array([0, 1, 1, 0])
    # with 5 bins: 0.9 twice, half right: gap 0.4; 0.6 and 0.5 fall into (0.4, 0.6], all right:
    # mean confidence 0.55, gap 0.45
    assert expected_calibration_error(labels, probabilities, bins=5) == pytest.approx(
        0.5 * 0.4 + 0.5 * 0.45
    )
    table = reliability(labels, probabilities, bins=5)
    assert table.count.tolist() == [0, 0, 2, 0, 2]


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(truth: float) -> None:
    random = np.random.default_rng(11)
    logits = random.normal(scale=2.0, size=(20_000, 4))
    honest = scale(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1.0)
    labels = (honest.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    boastful = scale(honest, 1 / truth)  # logits multiplied by `truth`
    found = fit_temperature(boastful, labels)
    assert found == pytest.approx(truth, rel=0.05)
    mended = scale(boastful, found)
    assert (mended.argmax(axis=1) == boastful.argmax(axis=1)).all()
    assert expected_calibration_error(labels, mended) < 0.02
    assert negative_log_likelihood(labels, mended) <= negative_log_likelihood(labels, boastful)


def test_a_temperature_without_an_error_stays() -> None:
    assert fit_temperature(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])) == 1.0
    with pytest.raises(ValueError, match="one row"):
        fit_temperature(np.zeros((0, 4)), np.zeros(0, dtype=int))


def test_pointing_game_by_hand() -> None:
    lesion = np.zeros((512, 512), bool)
    lesion[100:110, 100:110] = True
    heat = np.zeros((512, 512), np.float16)
    heat[105, 105] = 0.9
    assert points_at(heat, lesion)
    heat[105, 105], heat[105, 124] = 0, 0.9  # 15 pixels beside the last column, 109
    assert points_at(heat, lesion)
    assert not points_at(heat, lesion, tolerance_px=14.9)
    heat[105, 124], heat[105, 125] = 0, 0.9
    assert not points_at(heat, lesion)
    assert not points_at(np.zeros((512, 512)), lesion)  # flat: points at nothing
    heat[300:302, 300] = 0.9  # three peaks, none in the lesion
    heat[104:108, 104] = 0.9  # four more in it
    assert points_at(heat, lesion)
    with pytest.raises(ValueError, match="no lesion"):
        points_at(heat, np.zeros((512, 512), bool))


def test_the_tolerance_scales_with_the_matrix() -> None:
    lesion = np.zeros((256, 256), bool)
    lesion[50, 50] = True
    heat = np.zeros((256, 256))
    heat[50, 57] = 1
    assert points_at(heat, lesion)
    heat[50, 57], heat[50, 58] = 0, 1
    assert not points_at(heat, lesion)


def test_a_tally_against_whole_arrays() -> None:
    random = np.random.default_rng(5)
    shape = (6, 64, 64)
    lesion = np.zeros(shape, bool)
    lesion[1:4, 20:30, 25:40] = True
    lung = np.zeros(shape, bool)
    lung[:, 10:50, 10:55] = True
    heat = (random.random(shape) * 0.7 + 0.3 * lesion).astype(np.float16)
    tally = MapTally()
    for plane, truth, inside in zip(heat, lesion, lung, strict=True):
        tally.add(plane, truth, inside, (plane > 0.5) & inside)
    tally.finish()
    called = (heat > 0.5) & lung
    both = int((called & lesion).sum())
    assert tally.dice == pytest.approx(2 * both / (called.sum() + lesion.sum()))
    reference = roc_auc_score(lesion[lung], heat[lung].astype(float))
    assert tally.pixel_auc == pytest.approx(reference, abs=1e-3)
    assert tally.lesion_slices == 3
    assert len(tally.slice_dice) == 3
    hits = [points_at(heat[i], lesion[i]) for i in (1, 2, 3)]
    assert tally.hits == sum(hits)
    top = int(np.argmax(heat.reshape(6, -1).max(axis=1)))
    assert tally.patient_hit == (bool(lesion[top].any()) and points_at(heat[top], lesion[top]))


def test_a_healthy_tally_points_at_nothing() -> None:
    tally = MapTally()
    none = np.zeros((8, 8), bool)
    tally.add(np.zeros((8, 8), np.float16), none, ~none, none)
    tally.finish()
    assert tally.patient_hit is None
    assert np.isnan(tally.dice)
    assert np.isnan(tally.pixel_auc)
    assert dice(4, 6, 2) == pytest.approx(0.4)


def test_the_best_threshold_is_found_by_trying_all() -> None:
    rng = np.random.default_rng(5)
    lesion, other = rng.integers(0, 50, 64), rng.integers(0, 400, 64)
    lesion[40:] += 300
    scores = []
    for level in range(1, 64):
        above = lesion[level:].sum()
        scores.append(dice(int(above + other[level:].sum()), int(lesion.sum()), int(above)))
    threshold, found = best_threshold(lesion, other)
    assert found == pytest.approx(max(scores))
    assert round(threshold * 64) == 1 + int(np.argmax(scores))
    assert np.isnan(best_threshold(np.zeros(4, int), other[:4])[1])


def test_histogram_auc_against_scikit_learn() -> None:
    random = np.random.default_rng(9)
    positive, negative = random.integers(0, 20, 30), random.integers(0, 30, 30)
    scores = np.concatenate(
        [np.repeat(np.arange(30), positive), np.repeat(np.arange(30), negative)]
    )
    labels = np.concatenate([np.ones(positive.sum()), np.zeros(negative.sum())])
    assert histogram_auc(positive, negative) == pytest.approx(roc_auc_score(labels, scores))
