"""A comparison as a drawing: two bars for each bin, now filled, before as an outline beside it.

Coordinates only; the template draws them as SVG. The outline needs no eye for colours.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.console.drift import Comparison

__all__ = ["Bar", "DriftPlot", "drift_plot"]

WIDTH, HEIGHT = 320.0, 84.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin: where its two bars stand, and what is said of it on hovering."""

    x: float
    width: float
    now_height: float
    before_height: float
    words: str


@dataclass(frozen=True, slots=True)
class DriftPlot:
    """The whole drawing, in a box of ``width`` x ``height``."""

    width: float
    height: float
    bars: tuple[Bar, ...]
    first: str
    last: str


def drift_plot(comparison: Comparison) -> DriftPlot | None:
    """Return the drawing, None where there is nothing to draw."""
    shares = comparison.shares
    most = max((max(share.now, share.before) for share in shares), default=0.0)
    if not most:
        return None
    step = WIDTH / len(shares)
    return DriftPlot(
        WIDTH,
        HEIGHT,
        tuple(
            Bar(
                x=round(index * step, 2),
                width=round(0.42 * step, 2),
                now_height=round(HEIGHT * share.now / most, 2),
                before_height=round(HEIGHT * share.before / most, 2),
                words=f"{share.name}: {100 * share.now:.0f} % now, "
                f"{100 * share.before:.0f} % before",
            )
            for index, share in enumerate(shares)
        ),
        shares[0].name,
        shares[-1].name if len(shares) > 1 else "",
    )
