"""The parts that a report is made of, written as Markdown and as HTML."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..markdown import table_lines
from ..report.page import html_page


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 6."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """Paragraphs apart by empty lines; lines that begin with '- ' make a list. `code`, **bold** and
    [links](to) are known, the last to pages of the web and files beside the report."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first column is on the left, the others are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A drawing, or a picture, in a file beside the report."""

    file: str
    title: str
    content: str | Path
    """The drawing as SVG, or the file of the picture."""


Block = Heading | Text | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return Markdown; figures are the files beside it."""
    return '\n\n'.join(_markdown(block) for block in blocks) + '\n'


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f'{"#" * block.level} {_no_html(block.text)}'
    if isinstance(block, Figure):
        return f'![{_no_html(block.title)}]({block.file})'
    if isinstance(block, Table):
        head, *rows = [[_no_html(cell).replace('|', '\\|') for cell in row] for row in (block.head, *block.rows)]
        return '\n'.join(table_lines(head, rows))
    return _no_html(block.text.strip())


def _no_html(text: str) -> str:
    """Return Markdown whose `<` begin no tag; those of a study and of its results are texts of anyone."""
    return re.sub('<(?=[A-Za-z/!?])', '&lt;', text)


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Return a page that needs nothing else: drawings and pictures are in it."""
    return html_page(title, '\n'.join(_html(block) for block in blocks))


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level}>{_inline(block.text)}</h{block.level}>'
    if isinstance(block, Figure):
        if isinstance(block.content, str):
            return f'<p>{block.content}</p>'
        data = base64.b64encode(block.content.read_bytes()).decode()
        return f'<p><img alt="{escape(block.title)}" src="data:image/png;base64,{data}"></p>'
    if isinstance(block, Table):
        head = _row('th', block.head)
        rows = '\n'.join(_row('td', row) for row in block.rows)
        return f'<div class="wide"><table><thead>{head}</thead>\n<tbody>{rows}</tbody></table></div>'
    return '\n'.join(_paragraph(text) for text in re.split(r'\n\s*\n', block.text.strip()))


def _row(tag: str, cells: Sequence[str]) -> str:
    numbers = ''.join(f'<{tag} class="number">{_inline(cell)}</{tag}>' for cell in cells[1:])
    return f'<tr><{tag}>{_inline(cells[0])}</{tag}>{numbers}</tr>'


def _paragraph(text: str) -> str:
    if not text.startswith('- '):
        return f'<p>{_inline(text)}</p>'
    items = re.split(r'\n- ', text.removeprefix('- '))
    return f'<ul>{"".join(f"<li>{_inline(item)}</li>" for item in items)}</ul>'


def _inline(text: str) -> str:
    text = re.sub(r'`([^`]+)`', r'<code>\1</code>', escape(text))
    text = re.sub(r'\[([^][]+)\]\(((?:https?://)?[\w./#~%-]+)\)', r'<a href="\2">\1</a>', text)
    return re.sub(r'\*\*([^*]+)\*\*', r'<b>\1</b>', text)
