"""Line charts as SVG text: a white card that reads the same on light and dark pages.

Written by hand because a plotting library would be a large dependency for a small picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from rmexp.tools.axes import Axis, linear_axis

COLOURS = (
    "#0969da",
    "#d1580a",
    "#1a7f4b",
    "#a03a94",
    "#2f9fc4",
    "#b8860b",
    "#c2335b",
    "#6b5b1f",
    "#5d4bb5",
    "#6e7781",
)
INK, QUIET, GRID, CARD_EDGE = "#1f2328", "#59636e", "#e7eaee", "#d1d9e0"

WIDTH, MARGIN = 800, 24
PLOT_HEIGHT = 210
ROW = 22
GAP = 34
"""Between two panels."""
TICKS = 44
"""Left of a plot, for the numbers on its axis."""
LONGEST_NAME = 54
NAME_CHARACTER, KEY_CHARACTER = 8, 6.4
"""Widths on the safe side: which font a reader has is not known here."""
SLOT = 58
"""Right of a plot, for what came after the last epoch."""

Rows = Sequence[tuple[float, ...]]


@dataclass(frozen=True)
class Curve:
    """Rows are (x, y), or (x, y, low, high) for a line within a band."""

    name: str
    colour: str
    rows: Rows
    dashed: bool = False
    is_band: bool = False


@dataclass(frozen=True)
class Mark:
    """A single value with its interval."""

    colour: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    title: str
    curves: Sequence[Curve]
    axis: Axis
    keys: Sequence[Curve] = ()
    marks: Sequence[Mark] = field(default_factory=list)


@dataclass(frozen=True)
class _Frame:
    """Where a panel's plot stands on the card, in pixels."""

    left: float
    top: float
    right: float
    x_axis: Axis
    y_axis: Axis

    @property
    def bottom(self) -> float:
        return self.top + PLOT_HEIGHT

    def x(self, value: float) -> float:
        return self.left + self.x_axis.place(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.y_axis.place(value) * PLOT_HEIGHT


def chart(
    legend: Sequence[tuple[str, str, str]], panels: Sequence[Panel], *, num_epochs: int
) -> str:
    """The card: (name, colour, remark) of every run, and the panels side by side below them."""
    x_axis = linear_axis(0, max(1, num_epochs), is_tight=True, whole=True)
    top = MARGIN + ROW * len(legend) + 36
    height = top + PLOT_HEIGHT + 46
    spoken = "; ".join(": ".join(filter(None, (name, remark))) for name, _, remark in legend)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="system-ui, -apple-system, Segoe UI, Roboto, '
        'Helvetica, Arial, sans-serif" font-size="12">',
        f"<title>Training curves of {escape(spoken)}</title>",
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#fff" '
        f'stroke="{CARD_EDGE}"/>',
        *_legend(legend),
    ]
    room = (WIDTH - 2 * MARGIN - GAP * (len(panels) - 1)) / len(panels)
    for i, panel in enumerate(panels):
        left = MARGIN + i * (room + GAP)
        slot = max(SLOT, 26 + 9 * len(panel.marks)) if panel.marks else 0
        frame = _Frame(left + TICKS, top, left + room - slot, x_axis, panel.axis)
        lines += [*_heading(panel, frame, left, left + room), *_axes(frame), *_curves(panel, frame)]
        if panel.marks:
            lines += _marks(panel.marks, frame, slot)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend(legend: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    for i, (name, colour, remark) in enumerate(legend):
        y, x = MARGIN + 14 + ROW * i, MARGIN
        if len(legend) > 1:
            yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="3" fill="{colour}"/>'
            x += 20
        short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
        size = 16 if len(legend) == 1 else 13
        yield (
            f'<text x="{x}" y="{y}" font-size="{size}" font-weight="600" fill="{INK}">'
            f"{escape(short)}</text>"
        )
        if remark and len(legend) == 1:
            yield _text(WIDTH - MARGIN, y, remark, QUIET, "end")
        elif remark:
            longest = min(LONGEST_NAME, max(len(name) for name, _, _ in legend))
            yield _text(MARGIN + 44 + NAME_CHARACTER * longest, y, remark, QUIET, "start")


def _heading(panel: Panel, frame: _Frame, left: float, right: float) -> Iterator[str]:
    """The title above the panel's left end, the keys to its lines above the right one."""
    y = frame.top - 14
    yield (
        f'<text x="{_n(left)}" y="{_n(y)}" font-size="13" font-weight="600" fill="{INK}">'
        f"{escape(panel.title)}</text>"
    )
    x = right
    for key in reversed(panel.keys):
        x -= KEY_CHARACTER * len(key.name)
        yield _text(x, y, key.name, QUIET, "start")
        x -= 26
        if key.is_band:
            yield (
                f'<rect x="{_n(x)}" y="{_n(y - 10)}" width="18" height="12" rx="2" '
                f'fill="{key.colour}" opacity=".18"/>'
            )
        yield _stroke(f"M{_n(x)} {_n(y - 4)}h18", key.colour, dashed=key.dashed)
        x -= 14


def _axes(frame: _Frame) -> Iterator[str]:
    for value, label in frame.y_axis.ticks:
        y = frame.y(value)
        yield f'<path d="M{_n(frame.left)} {_n(y)}H{_n(frame.right)}" stroke="{GRID}"/>'
        yield _text(frame.left - 8, y + 4, label, QUIET, "end")
    yield (
        f'<path d="M{_n(frame.left)} {_n(frame.bottom)}H{_n(frame.right)}" stroke="{QUIET}" '
        'fill="none"/>'
    )
    for value, label in frame.x_axis.ticks:
        x = frame.x(value)
        yield f'<path d="M{_n(x)} {_n(frame.bottom)}v4" stroke="{QUIET}"/>'
        yield _text(x, frame.bottom + 17, label, QUIET, "middle")
    yield _text((frame.left + frame.right) / 2, frame.bottom + 34, "epoch", QUIET, "middle")


def _curves(panel: Panel, frame: _Frame) -> Iterator[str]:
    """Bands first, so that no line is covered."""
    opacity = 0.18 if len(panel.curves) == 1 else 0.10
    for curve in panel.curves:
        rows = [row for row in curve.rows if len(row) == 4]
        if len(rows) == 1:
            yield _bar(frame, frame.x(rows[0][0]), rows[0][2], rows[0][3], curve.colour)
        elif rows:
            upper = [(frame.x(row[0]), frame.y(row[3])) for row in rows]
            lower = [(frame.x(row[0]), frame.y(row[2])) for row in reversed(rows)]
            yield (
                f'<path d="{_path(upper + lower)}Z" fill="{curve.colour}" opacity="{opacity:g}"/>'
            )
    for curve in panel.curves:
        points = [
            (frame.x(x), frame.y(y)) if math.isfinite(y) else None
            for x, y in ((row[0], row[1]) for row in curve.rows)
        ]
        yield _stroke(_path(points), curve.colour, dashed=curve.dashed)
        seen = [point for point in points if point is not None]
        if len(seen) <= 24 and (len(seen) <= 2 or len(curve.rows[0]) == 4):
            yield from (_dot(x, y, curve.colour) for x, y in seen)


def _marks(marks: Sequence[Mark], frame: _Frame, slot: float) -> Iterator[str]:
    """Values after the last epoch, side by side in a column of their own."""
    left, right = frame.right + 14, frame.right + slot
    for value, _ in frame.y_axis.ticks:
        yield f'<path d="M{_n(left)} {_n(frame.y(value))}H{_n(right)}" stroke="{GRID}"/>'
    yield f'<path d="M{_n(left)} {_n(frame.bottom)}H{_n(right)}" stroke="{QUIET}"/>'
    middle = (left + right) / 2
    yield _text(middle, frame.bottom + 17, "final", QUIET, "middle")
    for i, mark in enumerate(marks):
        x = middle + 9 * (i - (len(marks) - 1) / 2)
        y = frame.y(mark.value)
        yield _bar(frame, x, mark.low, mark.high, mark.colour)
        yield (
            f'<path d="M{_n(x)} {_n(y - 5)}l5 5-5 5-5-5z" fill="{mark.colour}" stroke="#fff" '
            'stroke-width="1"/>'
        )


def _bar(frame: _Frame, x: float, low: float, high: float, colour: str) -> str:
    """An interval: a vertical line with caps."""
    path = f"M{_n(x - 3.5)} {_n(frame.y(high))}h7m-3.5 0V{_n(frame.y(low))}m-3.5 0h7"
    return f'<path d="{path}" stroke="{colour}" stroke-width="1.5" fill="none"/>'


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Straight lines from point to point, broken where there is none."""
    words: list[str] = []
    command = "M"
    for point in points:
        if point is None:
            command = "M"
            continue
        words.append(f"{command}{_n(point[0])} {_n(point[1])}")
        command = "L"
    return "".join(words)


def _stroke(path: str, colour: str, *, dashed: bool) -> str:
    dashes = ' stroke-dasharray="5 3.5"' if dashed else ""
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" '
        f'stroke-linejoin="round" stroke-linecap="round"{dashes}/>'
    )


def _dot(x: float, y: float, colour: str) -> str:
    return (
        f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3.5" fill="{colour}" stroke="#fff" '
        'stroke-width="1"/>'
    )


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _n(value: float) -> str:
    """Tenths of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
