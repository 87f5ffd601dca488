"""Tables in Markdown, and words of texts around them."""

from collections.abc import Iterable, Sequence


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; cells with texts of others have to be escaped (`escaping.markdown_text`)."""
    return [f'| {" | ".join(cells)} |' for cells in (head, ['---'] * len(head), *rows)]


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where there is not one."""
    return f'{number:,} {noun}' + ('' if number == 1 else 's')
