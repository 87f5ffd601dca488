"""The page of a report: a table that can be sorted, plots, protocols; nothing is loaded from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .. import __version__
from ..validation.tables import interval_of, mark_of
from .plots import accuracy_against_mce, epsilon_curves, severity_curves, shape_bias_by_category
from .published import COLUMNS, PUBLISHED, SOURCE, Published, bounds
from .runs import Run
from .svg import DRAWING_STYLE

_LOWER_IS_BETTER = ('mce', 'relative_mce', 'mean_error_15')

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 82rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin: 2.2rem 0 .4rem; }
p { max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
th button { font: inherit; font-weight: bold; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
th[aria-sort=ascending] button::after { content: ' ▲'; } th[aria-sort=descending] button::after { content: ' ▼'; }
table.sortable :is(th, td):first-child { position: sticky; left: 0; min-width: 17rem; background: #fff; }
table.sortable tr.published td { color: #5c5c5c; font-style: italic; background: #f7f7f7; }
small { display: block; color: #5c5c5c; } small.mark { color: #a33b00; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.legend svg { vertical-align: -3px; }
svg { max-width: 100%; height: auto; }
"""

_SCRIPT = """
for (const head of document.querySelectorAll('table.sortable th')) {
  head.querySelector('button').addEventListener('click', () => {
    const body = head.closest('table').tBodies[0];
    const falling = head.getAttribute('aria-sort') !== 'descending';
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', falling ? 'descending' : 'ascending');
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const compare = (a, b) => a.localeCompare(b, undefined, { numeric: !head.classList.contains('number') });
    const order = (a, b) => (head.classList.contains('number') ? a - b : compare(a, b)) * (falling ? -1 : 1);
    const rows = [...body.rows];
    const known = rows.filter((row) => value(row) !== undefined).sort((a, b) => order(value(a), value(b)));
    body.append(...known, ...rows.filter((row) => value(row) === undefined));
  });
}
"""

Column = tuple[str, str]
"""Benchmark and headline figure."""


def format_page(runs: Sequence[Run], with_published: bool) -> str:
    """Return the page as HTML.

    Args:
        runs: What was measured.
        with_published: Show figures for ResNet-50 that others published, marked as such.
    """
    parts = [
        '<h1>Accuracy, robustness and shape bias</h1>',
        '<p>All figures are in percent; in brackets, the Wilson 95 % interval of a share. ↓: lower is better. '
        'A click on the head of a column sorts by it. Partial benchmarks and subsets are marked: compare them with '
        'nothing else.</p>',
        _table(runs, _columns(runs, with_published), PUBLISHED if with_published else ()),
        f'<p class="source">Published by others, not measured here: {escape(SOURCE)}.</p>' if with_published else '',
        accuracy_against_mce(runs, with_published),
        shape_bias_by_category(runs, with_published),
        severity_curves(runs),
        epsilon_curves(runs),
        _protocols(runs),
        _models(runs),
        f'<p><small>Written by timm-debias report {escape(__version__)}.</small></p>',
    ]
    return html_page('timm-debias report', '\n'.join(part for part in parts if part), _SCRIPT)


def html_page(title: str, body: str, script: str = '') -> str:
    """Return a page that loads nothing from elsewhere.

    Args:
        title: Plain text.
        body: HTML.
        script: JavaScript.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>{_STYLE}{DRAWING_STYLE}</style>\n</head>\n<body>\n{body}\n'
        + (f'<script>{script}</script>\n' if script else '')
        + '</body>\n</html>\n'
    )


def _columns(runs: Sequence[Run], with_published: bool) -> list[Column]:
    """Return the columns: ImageNet's, then the other benchmarks by name, each figure in its own order."""
    columns = [
        (name, key) for run in runs for name, entry in run.results['benchmarks'].items() for key in entry['headline']
    ]
    columns += COLUMNS if with_published else ()
    return sorted(dict.fromkeys(columns), key=lambda column: (column[0] != 'imagenet', column[0]))


def _table(runs: Sequence[Run], columns: Sequence[Column], published: Sequence[Published]) -> str:
    heads = ['<th><button type="button">model</button></th>', _head('parameters, M'), _head('input, pixels')]
    heads += [_head(*column) for column in columns]
    rows = []
    for run in runs:
        cells = [
            f'<td data-value="{escape(run.label)}">{escape(run.label)}<small>{escape(str(run.folder))}</small></td>'
        ]
        cells += [_number(run.results[key], f'{run.results[key]:g}') for key in ('param_count', 'img_size')]
        cells += [_cell(run.entry(name), key) for name, key in columns]
        rows.append(f'<tr>{"".join(cells)}</tr>')
    for row in published:
        cells = [f'<td data-value="{escape(row.name)}">{escape(row.name)}<small>published, not measured</small></td>']
        cells += ['<td class="number"></td>'] * 2
        cells += [_number(sum(bounds(value)) / 2, value) if (value := row.figures.get(key)) else _number(None, '')
                  for key in columns]  # fmt: skip
        rows.append(f'<tr class="published">{"".join(cells)}</tr>')
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{"".join(heads)}</tr></thead>\n'
        f'<tbody>{chr(10).join(rows)}</tbody></table></div>'
    )


def _head(name: str, figure: str = '') -> str:
    arrow = ' ↓' if figure in _LOWER_IS_BETTER else ''
    below = f'<small>{escape(figure.replace("_", " "))}{arrow}</small>' if figure else ''
    return f'<th class="number"><button type="button">{escape(name)}{below}</button></th>'


def _cell(entry: Mapping[str, Any] | None, key: str) -> str:
    value = entry['headline'].get(key) if entry else None
    if entry is None or value is None:
        return _number(None, '')
    interval, mark = interval_of(entry, key), mark_of(entry)
    below = f'<small>[{interval[0]:.2f}, {interval[1]:.2f}]</small>' if interval else ''
    return _number(value, f'{value:.2f}', below + (f'<small class="mark">{escape(mark)}</small>' if mark else ''))


def _number(value: float | None, words: str, below: str = '') -> str:
    """Return a cell; `value` is what it is sorted by."""
    attribute = '' if value is None else f' data-value="{value}"'
    return f'<td class="number"{attribute}>{escape(words)}{below}</td>'


def _protocols(runs: Sequence[Run]) -> str:
    """Return how each benchmark was measured; models that were measured alike, on the same images, share a row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        for name, entry in run.results['benchmarks'].items():
            marks = '; '.join(filter(None, [mark_of(entry), *entry['notes']]))
            details = (name, entry['protocol'], f'{entry["images"]:,}', entry['fingerprint'][:12], marks)
            alike.setdefault(details, []).append(run.label)
    rows = []
    for key in sorted(alike):
        cells = ''.join(f'<td>{escape(words)}</td>' for words in (*key, '; '.join(alike[key])))
        rows.append(f'<tr>{cells}</tr>')
    heads = ''.join(f'<th>{name}</th>' for name in ('benchmark', 'protocol', 'images', 'files', 'remarks', 'models'))
    return (
        '<section><h2>Protocols</h2><p>Figures of a benchmark compare where protocol and files are the same. Files: '
        "the first digits of a SHA-256 over the images' paths and sizes.</p>"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>{chr(10).join(rows)}</tbody></table></div></section>'
    )


def _models(runs: Sequence[Run]) -> str:
    """Return the weights of each model, and which benchmarks it lacks."""
    items = []
    for run in runs:
        absent = '; '.join(f'{name}, {reason}' for name, reason in run.results['absent'].items())
        words = f'{run.label}: weights {run.results["weights"][:12]}' + (f'; not measured: {absent}' if absent else '')
        items.append(f'<li>{escape(words)}</li>')
    return f'<section><h2>Models</h2><ul>{"".join(items)}</ul></section>'
