"""The queries of the last minutes as the paths of a small SVG: a bar a step, rcodes stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from headwater.admin.recent import STEPS

#: The drawing's own units: a step is 4 wide, its bar 3.
WIDTH: Final = 4 * STEPS
HEIGHT: Final = 100
_BAR: Final = 3
#: From the ground up.
_ORDER: Final = ("NOERROR", "NXDOMAIN")


class Bars(Struct):
    """All bars of one rcode."""

    rcode: str
    path: str
    total: int


class Plot(Struct):
    """The drawing."""

    bars: list[Bars]
    top: float
    """Queries a second at its upper edge."""


def plot_of(series: Mapping[str, Sequence[int | None]], step: float) -> Plot:
    """The plot of counts by rcode, in steps of so many seconds."""
    rcodes = sorted(series, key=lambda rcode: (_ORDER.index(rcode) if rcode in _ORDER else len(_ORDER), rcode))
    length = max(map(len, series.values()), default=0)
    sums = [sum(series[rcode][at] or 0 for rcode in rcodes) for at in range(length)]
    top = _nice(max(sums, default=0) / step) * step
    ground = [0.0] * length
    bars = []
    for rcode in rcodes:
        parts = []
        for at, count in enumerate(series[rcode]):
            if count:
                height = count / top * HEIGHT
                x = WIDTH - 4 * (length - at)
                parts.append(f"M{x},{HEIGHT - ground[at]:.1f}v{-height:.1f}h{_BAR}v{height:.1f}z")
                ground[at] += height
        bars.append(Bars(rcode, "".join(parts), sum(count or 0 for count in series[rcode])))
    return Plot(bars, top / step)


def _nice(value: float) -> float:
    """The next number of a digit times a power of ten that is easily halved, and at least 1."""
    size = 1.0
    while True:
        for factor in (1, 2, 3, 4, 6, 8):
            if value <= factor * size:
                return factor * size
        size *= 10
