"""Where an axis has ticks: at round numbers, with labels that stand apart."""

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

FONT = 9.0  # points
STEPS = (1, 2, 2.5, 5, 10)
LETTER = 0.65  # widths of digits and signs in font sizes, rounded up


class Spaced(Locator):
    """As many ticks as have room for their labels, on the axis as it is when it is drawn.

    ``named`` are the only places there may be, and their labels; ``whole`` are whole numbers.
    """

    def __init__(self, *, whole: bool = False, named: Mapping[float, str] | None = None):
        self.whole, self.named = whole, named

    def __call__(self) -> np.ndarray:
        """Ticks of the axis between its limits."""
        return self.tick_values(*sorted(self.axis.get_view_interval()))

    def tick_values(self, low: float, high: float) -> np.ndarray:
        """Ticks between two values; the first of several if even two do not stand apart."""
        ticks = np.empty(0)
        for found in self.candidates(low, high):
            within = found[(found >= low) & (found <= high)]
            ticks = within if within.size else ticks
            if within.size and self.stand_apart(within):
                break
        else:
            ticks = ticks[:1]
        return ticks

    def candidates(self, low: float, high: float) -> Iterator[np.ndarray]:
        """Ticks, fewer and fewer."""
        if self.named is not None:
            places = np.asarray(list(self.named), np.float64)
            yield from (places[::step] for step in range(1, len(places) + 1))
            return
        ratio = high / low if self.axis.get_scale() == "log" else 1.0
        if ratio < 3:
            for num in (6, 5, 4, 3, 2, 1):
                ends = MaxNLocator(num, steps=STEPS, integer=self.whole, min_n_ticks=1)
                yield np.asarray(ends.tick_values(low, high))
        for least, subs in ((12, (1, 2, 3, 5, 7)), (100, (1, 2, 5)), (1e3, (1, 3)), (np.inf, (1,))):
            if 1 < ratio < least:
                yield np.asarray(LogLocator(subs=subs, numticks=1000).tick_values(low, high))
        if ratio > 1:
            powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
            yield from (10.0 ** powers[powers % step == 0] for step in (2, 3, 5, 10, 20, 50))

    def label(self, value: float, _=None) -> str:
        """The label of a tick."""
        if self.named is not None:
            return self.named.get(value, "")
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")

    def stand_apart(self, ticks: np.ndarray) -> bool:
        """Whether the labels of ticks differ, and have room."""
        labels = [self.label(tick) for tick in ticks]
        if len(set(labels)) < len(labels):
            return False
        transform, axis = self.axis.get_transform().transform, self.axis
        low, high = transform(np.asarray(axis.get_view_interval(), np.float64))
        box, along = axis.axes.get_window_extent(), axis.axis_name == "x"
        points = (box.width if along else box.height) * 72 / axis.get_figure(root=True).dpi
        places = (transform(ticks) - low) / (high - low) * points
        sizes = np.array([LETTER * len(label) + 0.6 if along else 1.5 for label in labels]) * FONT
        return bool((np.abs(np.diff(places)) >= (sizes[1:] + sizes[:-1]) / 2).all())


def space(axis: Axis, **options) -> None:
    """Give an axis ticks that are `Spaced`."""
    locator = Spaced(**options)
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(locator.label))


def scale_log(axis: Axis, low: float, high: float) -> None:
    """Logarithmic from `low` to `high` with some room."""
    room = max((high / low) ** 0.05, 1.05)
    limits = (low / room, high * room)
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": limits})
    space(axis)
    axis.set_minor_formatter(NullFormatter())
