"""Results as one HTML page that needs nothing else: tables, and plots as SVG."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["efficiency_plots", "page", "plot", "table"]

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f",
            "#bcbd22", "#e377c2")
_STYLE = ("body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
          "table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .7em;"
          "border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child"
          "{text-align:left}.plots{display:flex;flex-wrap:wrap}svg{margin:.5em}")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 460, 260, 48, 26, 118, 40

Lines = Mapping[str, Sequence[tuple[float, float]]]


def plot(title: str, lines: Lines, x_name: str, y_name: str, *, top: float | None = None) -> str:
    """Lines over a logarithmic x and a y that begins at 0, as SVG."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    top = top or max(y for _, y in points) * 1.05 or 1.0
    span = math.log(high / low) or 1.0

    def place(x: float, y: float) -> str:
        right = _LEFT + math.log(x / low) / span * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - min(y / top, 1.0) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{right:.1f},{down:.1f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
             'font-family="sans-serif" font-size="11">',
             f'<text x="{_LEFT}" y="15" font-size="13">{html.escape(title)}</text>']
    for tick in range(5):
        y = top * tick / 4
        x0, down = place(low, y).split(",")
        x1 = place(high, y).split(",")[0]
        parts.append(f'<line x1="{x0}" y1="{down}" x2="{x1}" y2="{down}" stroke="#ddd"/>'
                     f'<text x="{_LEFT - 5}" y="{float(down) + 4}" text-anchor="end">{y:.3g}'
                     '</text>')
    ticks = sorted({x for x, _ in points})
    for x in ticks[::max(1, math.ceil(len(ticks) / 7))]:
        right = place(x, 0).split(",")[0]
        parts.append(f'<text x="{right}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
                     f'{x:g}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" '
                 f'text-anchor="middle">{html.escape(x_name)}</text>'
                 f'<text x="12" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 '
                 f'{_HEIGHT / 2})">{html.escape(y_name)}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in sorted(line))
        height = _TOP + 8 + 15 * number
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
                     f'<line x1="{_WIDTH - _RIGHT + 8}" y1="{height}" x2="{_WIDTH - _RIGHT + 22}" '
                     f'y2="{height}" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{_WIDTH - _RIGHT + 26}" y="{height + 4}">{html.escape(name)}'
                     '</text>')
    return "".join([*parts, "</svg>"])


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
    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns.values())
    body = "".join("<tr>" + "".join(f"<td>{cell(row.get(name, ''))}</td>" for name in columns)
                   + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def page(title: str, sections: Sequence[tuple[str, str, Sequence[str], str]]) -> str:
    """A page of sections: heading, text, plots, table (HTML)."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
             f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"]
    for heading, text, plots, rows in sections:
        parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>"
                     f"<div class=plots>{''.join(plots)}</div>{rows}")
    return "\n".join([*parts, "</html>\n"])
