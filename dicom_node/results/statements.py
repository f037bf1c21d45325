"""Sentences that report and summary page have in common."""

from __future__ import annotations

from dicom_node.results.key_slices import lesion_slices
from dicom_node.results.result_set import ResultSet
from inference.domain import Findings, Lobe

__all__ = [
    "completeness_statements",
    "lesion_sentence",
    "percent_words",
    "quality_sentences",
    "second_opinion",
    "system_sentences",
]


def second_opinion(findings: Findings) -> str:
    """What the rule without a patient network says, and whether it agrees; empty without both."""
    first, second = findings.patient, findings.nonparametric
    if first is None or second is None:
        return ""
    counts = f"{sum(second.counts[1:])} of {sum(second.counts)} slices count as abnormal"
    if first.predicted == second.predicted:
        return f"Second opinion (slice counting) agrees: {second.predicted.label}; {counts}."
    return (
        f"Second opinion (slice counting) DISAGREES: {second.predicted.label}, where the patient "
        f"network says {first.predicted.label}; {counts}."
    )


def lesion_sentence(findings: Findings) -> str:
    """How many slices show lesion."""
    count, total = len(lesion_slices(findings)), len(findings.slices)
    if count == 0:
        return (
            f"No slice has lesion above the model's threshold "
            f"({findings.model.lesion_threshold:.2f}): no lesion map, segmentation or key images "
            "were made."
        )
    return f"{count} of {total} slices have lesion above the model's threshold."


def quality_sentences(findings: Findings) -> list[str]:
    """Quality statements in order, each once."""
    return list(dict.fromkeys(statement.text for statement in findings.quality))


def completeness_statements(results: ResultSet) -> list[str]:
    """Why the series was taken as whole, and what selection left out."""
    return [f"Completeness: {results.context.completeness.text}.", *results.context.statements]


def system_sentences(findings: Findings) -> list[str]:
    """What the two other systems say, each with its name; empty without them."""
    said = []
    lobes, segmented = findings.lobes, findings.segmented
    if lobes is not None and lobes.severe is not None:
        words = "severe" if lobes.severe else "not severe"
        said.append(
            f"Severity by {lobes.model.name}: {words}, probability of severe "
            f"{lobes.severe_probability:.2f} (severe: at least {lobes.severe_from_percent:.0f} % "
            "of the lungs)."
        )
    for found in findings.involvement:
        each = ", ".join(
            f"{lobe.short} {percent_words(percent)}"
            for lobe, percent in zip(Lobe, found.percent, strict=True)
        )
        total = found.total_score
        score = "not given, a lobe is missing" if total is None else f"{total} of 25"
        said.append(
            f"Involvement of the lobes ({found.lobes_by.name}) by the lesions of "
            f"{found.lesions_by.name}: {each}; CT severity score {score}."
        )
    if segmented is not None and segmented.positive is not None:
        words = segmented.positive_words if segmented.positive else segmented.negative_words
        said.append(
            f"{segmented.model.name}: {words}, {segmented.positive_slices} slices are positive "
            f"(up to {segmented.allowed_slices} count as {segmented.negative_words}), deciding "
            f"probability {segmented.probability:.2f}."
        )
        if segmented.positive and segmented.percent_of_lung is not None:
            said.append(
                f"{segmented.model.name} outlines {segmented.percent_of_lung:.1f} % of the lung, "
                f"{segmented.lesion_ml:.0f} ml."
            )
    return said


def percent_words(percent: float | None) -> str:
    """Share of a lobe without false precision: whole percent, or why there is none."""
    if percent is None:
        return "not told"
    return "< 1 %" if 0 < percent < 1 else f"{percent:.0f} %"
