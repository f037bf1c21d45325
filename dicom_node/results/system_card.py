"""The summary page's card of the two other systems: lobes, severity, outlines."""

from __future__ import annotations

from dicom_node.results.page import AMBER, DIM, INK, PADDING, Page
from dicom_node.results.statements import percent_words, system_sentences
from dicom_node.results.typeface import line_height, wrapped
from inference.domain import Findings, Lobe, QualityCode, Training

__all__ = ["card_sentences", "draw_systems", "systems_height"]

_SCORE_COLOURS = (
    (52, 57, 62), (66, 92, 102), (86, 130, 130), (168, 156, 84), (206, 136, 66), (206, 88, 66),
)  # fmt: skip
_CELL_HEIGHT = 74
_ROW_HEIGHT = 26 + _CELL_HEIGHT + 8
_SIZE = 16


def systems_height(findings: Findings, width: int) -> int:
    """Pixels that the card and the gap below it take; 0 without these systems.

    Parameters
    ----------
    width : int
        Of the card.
    """
    if findings.lobes is None and findings.segmented is None:
        return 0
    sentences = [*_sentences(findings), *card_sentences(findings)]
    lines = sum(len(wrapped(words, _SIZE, width - 2 * PADDING)) for words in sentences)
    rows = len(findings.involvement)
    return 46 + rows * _ROW_HEIGHT + lines * line_height(_SIZE) + 2 * len(sentences) + 12 + 18


def draw_systems(
    page: Page, left: int, top: int, right: int, bottom: int, findings: Findings
) -> None:
    """Draw the card: a row of five lobes per source of lesions, then what the systems say."""
    y = page.card(left, top, right, bottom, "Lobes, severity, outlines: further systems")
    x, width = left + PADDING, right - left - 2 * PADDING
    for involved in findings.involvement:
        total = involved.total_score
        score = "score not given" if total is None else f"CT severity score {total} of 25"
        page.text(
            x,
            y,
            f"Lesions of {involved.lesions_by.name} in lobes of {involved.lobes_by.name}: {score}",
            16,
            INK,
        )
        y += 26
        cell = width // len(Lobe)
        for number, (lobe, percent, points) in enumerate(
            zip(Lobe, involved.percent, involved.scores, strict=True)
        ):
            start = x + number * cell
            colour = _SCORE_COLOURS[points or 0]
            page.draw.rounded_rectangle(
                (start, y, start + cell - 10, y + _CELL_HEIGHT - 8),
                radius=6,
                outline=colour,
                width=3,
            )
            page.text(start + 12, y + 8, lobe.short, 15, DIM)
            words = percent_words(percent)
            if points is not None:
                words += f" · {points}/5"
            page.text(start + 12, y + 32, words, 18, INK if percent is not None else AMBER)
        y += _CELL_HEIGHT + 8
    untrained = any(model.training is Training.UNTRAINED for model in findings.models[1:])
    for sentence in _sentences(findings):
        y = page.paragraph(x, y, sentence, width, _SIZE, AMBER if untrained else INK) + 2
    for sentence in card_sentences(findings):
        y = page.paragraph(x, y, sentence, width, _SIZE, AMBER) + 2


def _sentences(findings: Findings) -> list[str]:
    """What the systems say, but for what the lobes' cells show."""
    return [
        sentence
        for sentence in system_sentences(findings)
        if not sentence.startswith("Involvement of the lobes")
    ]


def card_sentences(findings: Findings) -> list[str]:
    """What the card says of quality: disagreements, and lobes that cannot be told."""
    codes = (QualityCode.SYSTEMS_DISAGREE, QualityCode.LOBES_UNCERTAIN)
    return list(dict.fromkeys(item.text for item in findings.quality if item.code in codes))
