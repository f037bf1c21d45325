"""Sentences that report and summary page have in common."""

from __future__ import annotations

from dicom_node.results.key_slices import lesion_slices
from dicom_node.results.result_set import ResultSet
from inference.domain import Findings

__all__ = [
    "completeness_statements",
    "lesion_sentence",
    "quality_sentences",
    "second_opinion",
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
