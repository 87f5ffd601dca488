"""summary.csv: one row an epoch, as timm's train.py writes it."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text


def update_summary(
    path: Path, epoch: int, train_metrics: Mapping[str, Any], eval_metrics: Mapping[str, Any] | None, lr: float
) -> dict[str, Any]:
    """Add the row of an epoch and return it; rows of that epoch and of later ones, from a run that was stopped, go.

    The file is replaced as a whole, so that a crash leaves the old one.

    Args:
        path: The file.
        epoch: Number of the epoch.
        train_metrics: Means over the epoch; `train_` is put before their names.
        eval_metrics: Those of validation, if any, with `eval_`.
        lr: Mean learning rate of the parameter groups.
    """
    row: dict[str, Any] = {'epoch': epoch}
    row |= {f'train_{name}': value for name, value in train_metrics.items()}
    row |= {f'eval_{name}': value for name, value in (eval_metrics or {}).items()}
    row['lr'] = lr
    rows = [kept for kept in _read(path) if int(kept['epoch']) < epoch]
    columns = dict.fromkeys([*(rows[0] if rows else ()), *row])
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, list(columns), restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows([*rows, row])
    write_text(path, text.getvalue())
    return row


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        return [row for row in csv.DictReader(file) if (row.get('epoch') or '').isdigit()]
