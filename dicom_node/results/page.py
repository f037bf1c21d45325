"""A dark page to draw on: cards, text, bars. Colours and sizes stand here, once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results.typeface import font, line_height, text_width, wrapped

__all__ = ["ACCENT", "AMBER", "CARD", "DIM", "INK", "LINE", "Page"]

Colour = tuple[int, int, int]

_GROUND: Colour = (14, 16, 18)
CARD: Colour = (24, 27, 30)
LINE: Colour = (52, 57, 62)
INK: Colour = (222, 225, 228)
DIM: Colour = (146, 152, 158)
ACCENT: Colour = (96, 176, 196)
AMBER: Colour = (226, 178, 92)

MARGIN = 36
PADDING = 20


class Page:
    """A picture under construction; `y` positions are pixels from the top.

    Parameters
    ----------
    width, height : int
    """

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width, height), _GROUND)
        self.draw = ImageDraw.Draw(self.picture)
        self.width = width
        self.height = height

    def text(
        self, x: int, y: int, words: str, size: int = 18, colour: Colour = INK, anchor: str = "la"
    ) -> int:
        """Draw one line; return the y of the next."""
        self.draw.text((x, y), words, font=font(size), fill=colour, anchor=anchor)
        return y + line_height(size)

    def paragraph(
        self, x: int, y: int, words: str, width: int, size: int = 16, colour: Colour = INK
    ) -> int:
        """Draw `words` in lines of at most `width` pixels; return the y below."""
        for line in wrapped(words, size, width):
            y = self.text(x, y, line, size, colour)
        return y

    def fitted(
        self, x: int, y: int, words: str, width: int, size: int, colour: Colour, anchor: str = "la"
    ) -> int:
        """Draw one line as large as fits, at most `size`; return the y of the next."""
        while size > 10 and text_width(words, size) > width:
            size -= 1
        return self.text(x, y, words, size, colour, anchor)

    def card(self, left: int, top: int, right: int, bottom: int, title: str) -> int:
        """Draw a card; return the y below its title."""
        self.draw.rounded_rectangle((left, top, right, bottom), radius=8, fill=CARD)
        return self.text(left + PADDING, top + 14, title, 15, DIM) + 8

    def bar(self, left: int, y: int, width: int, height: int, share: float, colour: Colour) -> None:
        """Draw a horizontal bar filled to `share` in [0, 1]."""
        self.draw.rectangle((left, y, left + width - 1, y + height - 1), fill=LINE)
        filled = round(width * min(max(share, 0.0), 1.0))
        if filled:
            self.draw.rectangle((left, y, left + filled - 1, y + height - 1), fill=colour)

    def split_bar(
        self, left: int, y: int, width: int, parts: list[tuple[str, float]], height: int = 12
    ) -> int:
        """Draw shares that sum to one, each labelled below its part; return the y below."""
        shades = ((96, 176, 196), (70, 132, 148), (48, 94, 106))
        column = width // len(parts)
        start = float(left)
        for (_, share), shade in zip(parts, shades, strict=False):
            end = start + share * width
            if end - start >= 1:
                self.draw.rectangle((round(start), y, round(end) - 2, y + height - 1), fill=shade)
            start = end
        for number, ((label, share), shade) in enumerate(zip(parts, shades, strict=False)):
            x = left + number * column
            self.draw.rectangle((x, y + height + 9, x + 8, y + height + 17), fill=shade)
            self.text(x + 14, y + height + 5, f"{label} {100 * share:.0f} %", 15, INK)
        return y + height + 34

    def paste(self, rgb: NDArray[np.uint8], left: int, top: int, width: int, height: int) -> None:
        """Scale a picture into a rectangle."""
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
        self.picture.paste(scaled, (left, top))

    def pixels(self) -> NDArray[np.uint8]:
        """Return the page as RGB, shape (height, width, 3)."""
        return np.asarray(self.picture)
