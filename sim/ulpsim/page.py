"""Results as one HTML page that needs nothing else: tables, and plots as SVG."""

import html
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

__all__ = ["bars", "efficiency_plots", "page", "plot", "table"]

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f",
            "#bcbd22", "#e377c2")
_STYLE = ("body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
          "table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .7em;"
          "border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child"
          "{text-align:left}.text{text-align:left;max-width:44em}.plots{display:flex;flex-wrap:wrap}svg{margin:.5em}")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 460, 260, 48, 26, 118, 40
#: Letters from which on a cell is text: its column begins at the left.
_LONG = 60

Lines = Mapping[str, Sequence[tuple[float, float]]]


def plot(title: str, lines: Lines, x_name: str, y_name: str, *, top: float | None = None,
         log_x: bool = True, log_y: bool = False, dots: Collection[str] = ()) -> str:
    """Lines, those named in `dots` as points, as SVG. x is logarithmic or from the least to the
    most; y begins at 0 or is logarithmic."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    bottom = min(y for _, y in points) if log_y else 0.0
    top = top or max(y for _, y in points) * (1.0 if log_y else 1.05) or 1.0
    along, up = _scale(low, high, log_x), _scale(bottom, top, log_y)

    def place(x: float, y: float) -> tuple[float, float]:
        return (_LEFT + along(x) * (_WIDTH - _LEFT - _RIGHT),
                _HEIGHT - _BOTTOM - min(up(y), 1.0) * (_HEIGHT - _TOP - _BOTTOM))

    parts = _frame(title, x_name, y_name)
    for y in _decades(bottom, top) if log_y else [top * tick / 4 for tick in range(5)]:
        parts.append(_grid_line(place(low, y)[1], y))
    ticks = _decades(low, high) if log_x and len({x for x, _ in points}) > 20 else sorted(
        {x for x, _ in points})
    for x in ticks[::max(1, math.ceil(len(ticks) / 7))]:
        parts.append(f'<text x="{place(x, bottom)[0]:.1f}" y="{_HEIGHT - _BOTTOM + 15}" '
                     f'text-anchor="middle">{x:g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(x, y) for x, y in sorted(line)]
        if name in dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>'
                      for x, y in places]
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" '
                         'stroke-width="1.6"/>')
        parts.append(_legend(number, name, colour))
    return "".join([*parts, "</svg>"])


def bars(title: str, groups: Mapping[str, Mapping[str, float]], y_name: str) -> str:
    """A bar for each group, made of its parts one upon the other, as SVG."""
    if not groups:
        return ""
    names = list(dict.fromkeys(name for parts in groups.values() for name in parts))
    top = _ceiling(max(sum(parts.values()) for parts in groups.values()))
    step = (_WIDTH - _LEFT - _RIGHT) / len(groups)
    height = _HEIGHT - _TOP - _BOTTOM
    drawn = _frame(title, "", y_name)
    drawn += [_grid_line(_HEIGHT - _BOTTOM - height * tick / 4, top * tick / 4)
              for tick in range(5)]
    for number, (group, parts) in enumerate(groups.items()):
        left, base = _LEFT + step * (number + 0.15), float(_HEIGHT - _BOTTOM)
        for name, value in parts.items():
            tall = value / top * height
            base -= tall
            drawn.append(f'<rect x="{left:.1f}" y="{base:.1f}" width="{step * 0.7:.1f}" height="'
                         f'{tall:.1f}" fill="{_COLOURS[names.index(name) % len(_COLOURS)]}"/>')
        middle = left + step * 0.35
        # Long names one below the other, so that they do not meet.
        for row, word in enumerate(group.split(" x ")):
            drawn.append(f'<text x="{middle:.1f}" y="{_HEIGHT - _BOTTOM + 14 + 12 * row}" '
                         f'text-anchor="middle">{"x " if row else ""}{html.escape(word)}</text>')
    drawn += [_legend(number, name, _COLOURS[number % len(_COLOURS)])
              for number, name in enumerate(names)]
    return "".join([*drawn, "</svg>"])


def _scale(low: float, high: float, logarithmic: bool) -> Callable[[float], float]:
    """From `low` to `high` to 0 to 1."""
    if logarithmic:
        return lambda value: math.log(value / low) / (math.log(high / low) or 1.0)
    return lambda value: (value - low) / ((high - low) or 1.0)


def _ceiling(value: float) -> float:
    """The next larger number whose quarters are short."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, if there are few powers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(powers) > 4 else (1, 2, 5)
    return [step * 10.0 ** power for power in powers for step in steps
            if low <= step * 10.0 ** power <= high]


def _frame(title: str, x_name: str, y_name: str) -> list[str]:
    return [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            'font-family="sans-serif" font-size="11">',
            f'<text x="{_LEFT}" y="15" font-size="13">{html.escape(title)}</text>',
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
            f'{html.escape(x_name)}</text>',
            f'<text x="12" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 '
            f'{_HEIGHT / 2})">{html.escape(y_name)}</text>']


def _grid_line(height: float, value: float) -> str:
    return (f'<line x1="{_LEFT}" y1="{height:.1f}" x2="{_WIDTH - _RIGHT}" y2="{height:.1f}" '
            f'stroke="#ddd"/><text x="{_LEFT - 5}" y="{height + 4:.1f}" text-anchor="end">'
            f'{value:.4g}</text>')


def _legend(number: int, name: str, colour: str) -> str:
    height = _TOP + 8 + 15 * number
    return (f'<line x1="{_WIDTH - _RIGHT + 8}" y1="{height}" x2="{_WIDTH - _RIGHT + 22}" '
            f'y2="{height}" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{_WIDTH - _RIGHT + 26}" y="{height + 4}">{html.escape(name)}</text>')


def efficiency_plots(rows: Sequence[Mapping[str, Any]], pictures: Sequence[str],
                     line: str = "topology") -> list[str]:
    """Efficiency over n: a picture for each value of the columns `pictures`, a line for each value
    of the column `line`."""
    found: dict[tuple, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if "refused" not in row:
            key = tuple(row[name] for name in pictures)
            found.setdefault(key, {}).setdefault(str(row[line]), []).append(
                (row["n"], row["efficiency"]))
    return [plot(", ".join(map(str, key)), lines, "accelerators", "efficiency", top=1.0)
            for key, lines in found.items()]


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as HTML; `columns` are headings by the names of what stands below them."""
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))

    def cells(tag: str, values: Mapping[str, Any]) -> str:
        return "".join(f"<{tag} class=text>{text(values.get(name, ''))}</{tag}>" if name in wordy
                       else f"<{tag}>{text(values.get(name, ''))}</{tag}>" for name in columns)

    wordy = {name for name in columns if any(len(text(row.get(name, ""))) > _LONG for row in rows)}
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', columns)}</tr>{body}</table>"


def page(title: str, sections: Sequence[tuple[str, str, Sequence[str], str]]) -> str:
    """A page of sections: heading, text, plots, table (HTML)."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
             f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"]
    for heading, text, plots, rows in sections:
        parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>"
                     f"<div class=plots>{''.join(plots)}</div>{rows}")
    return "\n".join([*parts, "</html>\n"])
