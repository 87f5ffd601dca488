"""Drawing in SVG: axes, lines and marks, each a function from numbers to a piece of markup."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

GREY = '#767676'
_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
"""Told apart with any colour vision; Okabe & Ito, "Color Universal Design", without the yellow."""

DRAWING_STYLE = """
svg { font: 12px system-ui, sans-serif; }
svg .label { fill: #444; } svg .title { fill: #1a1a1a; font-weight: bold; }
svg .dot { stroke: #fff; stroke-width: .8; paint-order: stroke; }
svg .grid { stroke: #e4e4e4; } svg .axis { stroke: #888; } svg .interval { stroke-width: 1.5; opacity: .7; }
svg .mean { stroke-width: 1.5; stroke-dasharray: 5 4; } svg .curve { fill: none; stroke-width: 1.5; }
"""
"""CSS of all drawings."""

_SHAPES = (
    '<circle r="4.5"/>',
    '<rect x="-4" y="-4" width="8" height="8"/>',
    '<path d="M0-6 6 0 0 6-6 0Z"/>',
    '<path d="M0-6 5.5 4h-11Z"/>',
)


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    colour: str
    symbol: str
    """Markup of its mark, around (0, 0)."""


def look(number: int) -> Look:
    """Return the look of a model by its number: colours first, then other shapes."""
    return Look(_COLOURS[number % len(_COLOURS)], _SHAPES[number // len(_COLOURS) % len(_SHAPES)])


def letter(number: int) -> Look:
    """Return a grey letter, for figures that others published."""
    return Look(GREY, f'<text dy="4" text-anchor="middle" font-weight="bold">{chr(ord("a") + number)}</text>')


@dataclass(frozen=True)
class Axis:
    """From values between `low` and `high` to pixels between `start` and `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart."""
    power = 10 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [number * step for number in range(first, last + 1)]


def widened(values: Sequence[float]) -> tuple[float, float]:
    """Return a range with some room around the values, at least one unit wide."""
    low, high = min(values), max(values)
    room = max((high - low) / 10, 0.5)
    return low - room, high + room


def document(width: int, height: int, name: str, parts: Sequence[str]) -> str:
    """Return a drawing; `name` says what it shows, to screen readers."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )


def standalone(drawing: str) -> str:
    """Return a drawing of `document` as a file that needs nothing else."""
    style = f'<style>{DRAWING_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    return drawing.replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace('>', f'>{style}', 1) + '\n'


def text(x: float, y: float, words: str, anchor: str = 'middle', kind: str = 'label', turned: bool = False) -> str:
    """Return words at a point; `kind` is their CSS class."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ''
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(words)}</text>'


def line(start: tuple[float, float], end: tuple[float, float], kind: str, colour: str = '') -> str:
    """Return a straight line; `kind` is its CSS class."""
    stroke = f' stroke="{colour}"' if colour else ''
    return f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"{stroke}/>'


def curve(points: Sequence[tuple[float, float]], colour: str) -> str:
    """Return a line through points."""
    return f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" stroke="{colour}"/>'


def dot(x: float, y: float, drawn: Look, words: str) -> str:
    """Return a mark; `words` show where the pointer rests on it."""
    return (
        f'<g class="dot" transform="translate({x:.1f} {y:.1f})" fill="{drawn.colour}">{drawn.symbol}'
        f'<title>{escape(words)}</title></g>'
    )


def frame(title: str, x: Axis, y: Axis, x_ticks: Sequence[float] | None = None) -> list[str]:
    """Return title, grid and labels of two axes; ticks of x that are not given are round numbers."""
    parts = [text((x.start + x.end) / 2, y.end - 10, title, kind='title')] if title else []
    for value in ticks(x.low, x.high) if x_ticks is None else x_ticks:
        parts.append(line((x.at(value), y.start), (x.at(value), y.end), 'grid'))
        parts.append(text(x.at(value), y.start + 16, f'{value:g}'))
    for value in ticks(y.low, y.high):
        parts.append(line((x.start, y.at(value)), (x.end, y.at(value)), 'grid'))
        parts.append(text(x.start - 6, y.at(value) + 4, f'{value:g}', 'end'))
    parts.append(text((x.start + x.end) / 2, y.start + 34, x.label))
    parts.append(text(x.start - 34, (y.start + y.end) / 2, y.label, turned=True))
    return parts


def key(entries: Sequence[tuple[Look, str]], x: float, y: float) -> list[str]:
    """Return a column of marks and what they stand for, as part of a drawing."""
    parts = []
    for row, (drawn, words) in enumerate(entries):
        parts.append(dot(x, y + 18 * row, drawn, words))
        parts.append(text(x + 12, y + 18 * row + 4, words, 'start'))
    return parts


def width_of(labels: Sequence[str]) -> int:
    """Return pixels that are enough for the longest of some labels, whatever the reader's font."""
    return 7 * max(map(len, labels), default=0)


def key_size(entries: Sequence[tuple[Look, str]]) -> tuple[int, int]:
    """Return width and height of a `key`, from its place to the edges of the drawing."""
    return max(210, 20 + width_of([words for _, words in entries])), 18 * len(entries)


def legend(entries: Sequence[tuple[Look, str]]) -> str:
    """Return a list that names the marks."""
    items = ''.join(
        f'<li><svg viewBox="-8 -8 16 16" width="16" height="16" fill="{drawn.colour}" aria-hidden="true">'
        f'{drawn.symbol}</svg> {escape(words)}</li>'
        for drawn, words in entries
    )
    return f'<ul class="legend">{items}</ul>'
