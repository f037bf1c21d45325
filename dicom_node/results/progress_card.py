"""The summary page's card of the change since an earlier study; a line in the foot without one."""

from __future__ import annotations

from dicom_node.results.page import AMBER, DIM, INK, PADDING, Page
from dicom_node.results.progress import Progress
from dicom_node.results.progress_words import points_words, progress_sentences, relative_words
from dicom_node.results.typeface import line_height, text_width, wrapped

__all__ = ["FOOT_SIZE", "draw_progress", "foot_sentences", "progress_height"]

FOOT_SIZE = 15
_SIZE = 16
_HEAD = 46
_HEADLINE = 46


def progress_height(progress: Progress | None, width: int) -> int:
    """Pixels that the page is longer by: the card with the gap below it, or a line in the foot.

    Parameters
    ----------
    width : int
        Of the card.
    """
    if progress is None:
        return 0
    foot = sum(_taken(words, FOOT_SIZE, width) for words in foot_sentences(progress))
    if not progress.comparable:
        return foot
    inside = width - 2 * PADDING
    lines = sum(_taken(words, _SIZE, inside) for words in _further(progress))
    return _HEAD + _HEADLINE + lines + 12 + 18


def foot_sentences(progress: Progress | None) -> list[str]:
    """Return what the foot says: why nothing is compared."""
    if progress is None or progress.comparable:
        return []
    return progress_sentences(progress)


def draw_progress(
    page: Page, left: int, top: int, right: int, bottom: int, progress: Progress, *, sure: bool
) -> None:
    """Draw the card of what was compared.

    Parameters
    ----------
    sure : bool
        False of an untrained model: nothing is read without the colour of warnings.
    """
    y = page.card(left, top, right, bottom, f"Since the study of {progress.study_date}")
    x, width = left + PADDING, right - left - 2 * PADDING
    main = progress.changes[0]
    colour = INK if sure else AMBER
    words = f"{points_words(main.change)} percentage points"
    page.text(x, y, words, 30, colour)
    relative = relative_words(main)
    beside = (
        f"of lung involved by {main.lesions_by}: {main.before:.1f} % then, {main.now:.1f} % now"
        f"{f' ({relative})' if relative else ''}"
    )
    start = x + text_width(words, 30) + 18
    page.fitted(start, y + 11, beside, x + width - start, 18, DIM)
    y += _HEADLINE
    for sentence in _further(progress):
        y = page.paragraph(x, y, sentence, width, _SIZE, colour) + 2


def _further(progress: Progress) -> list[str]:
    """All sentences but for the headline's two."""
    return progress_sentences(progress)[2:]


def _taken(words: str, size: int, width: int) -> int:
    return len(wrapped(words, size, width)) * line_height(size) + 2
