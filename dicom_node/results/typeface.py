"""The one typeface of all pictures: the scalable one that Pillow carries (Aileron).

No font file has to be found on the machine, so the pictures are the same everywhere.
"""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

__all__ = ["Font", "font", "line_height", "text_width", "wrapped"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """Return the typeface at `size` pixels.

    Fonts are shared between threads that only measure and draw.
    """
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of one line in pixels."""
    left, _, right, _ = font(size).getbbox(text)
    return int(right - left) + 1


def line_height(size: int) -> int:
    """Distance of base lines in pixels."""
    return round(size * 1.3)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Break `text` at spaces into lines of at most `width` pixels; a longer word stays whole."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and text_width(longer, size) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines
