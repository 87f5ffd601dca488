"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; cells with texts of others have to be escaped (`escaping.markdown_text`)."""
    return [f'| {" | ".join(cells)} |' for cells in (head, ['---'] * len(head), *rows)]
