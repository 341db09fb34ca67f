"""Axes whose ticks stand at round numbers, linear and logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """From a value to a place between 0 and 1, and the ticks with their labels."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return (value - low) / (high - low)


def axis_of(values: Sequence[float]) -> Axis:
    """Logarithmic where positive values span more than a factor of 20, linear elsewhere."""
    low, high = min(values), max(values)
    return log_axis(low, high) if low > 0 and high > 20 * low else linear_axis(low, high)


def linear_axis(
    low: float,
    high: float,
    *,
    as_percent: bool = False,
    is_tight: bool = False,
    whole: bool = False,
) -> Axis:
    """Ticks at 1, 2 or 5 times a power of ten.

    The axis ends at ticks, a tight one at its values; `whole` allows no fractions.
    """
    if high <= low:
        pad = abs(low) / 10 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if is_tight:
        last = math.floor(high / step + 1e-9)
    values = [i * step for i in range(first, last + 1)]
    if as_percent:
        return Axis(low, high, [(v, f"{100 * v:.0f} %") for v in values])
    largest = max(abs(low), abs(high))
    if largest < 1e-3 or largest >= 1e6:
        ticks = [(v, _power_of_ten(v)) for v in values]
    else:
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        ticks = [(v, f"{v:.{digits}f}".replace("-", "\N{MINUS SIGN}")) for v in values]
    return Axis(low, high, ticks) if is_tight else Axis(values[0], values[-1], ticks)


def log_axis(low: float, high: float) -> Axis:
    """Ticks at 1, 2 and 5 times powers of ten; over many decades at powers of ten alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 7))
    last += -(last - first) % every
    marks = [m * 10.0**e for e in range(first, last + 1, every) for m in (1, 2, 5)]
    if high > 1000 * low:
        marks = marks[::3]
    start = max(v for v in marks if v <= low * 1.001)
    end = min(v for v in marks if v >= high / 1.001)
    ticks = [(v, _power_of_ten(v)) for v in marks if start <= v <= end]
    return Axis(start, end, ticks, is_log=True)


def _power_of_ten(value: float) -> str:
    """`0.005`, `200`, and beyond these `2` times a power of ten with a raised exponent."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"
