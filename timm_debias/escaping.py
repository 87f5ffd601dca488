"""Texts of others in files and on screens that would take some of their characters for commands."""

from html import escape

_FORMULA = ('=', '+', '-', '@', '\t', '\r')


def one_line(text: str) -> str:
    """Return a text as one line without characters that steer a terminal; those are written as `\\x1b`."""
    return ''.join(
        character if character.isprintable() else ascii(character)[1:-1] for character in ' '.join(text.split())
    )


def markdown_text(text: str) -> str:
    """Return a text as one line of Markdown that shows it: no HTML, no link, no image, no new cell of a table."""
    return escape(one_line(text), quote=False).replace('|', '\\|').replace('](', ']\\(')


def markdown_code(text: str, language: str = '') -> str:
    """Return a text as a block of code, whose fence is longer than any within it."""
    fence = '```'
    while fence in text:
        fence += '`'
    return f'{fence}{language}\n{text}\n{fence}'


def csv_cell(value: object) -> object:
    """Return a value for a CSV file; before a text that a spreadsheet would take for a formula goes an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
