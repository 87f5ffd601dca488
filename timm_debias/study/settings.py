"""What the runs of a study were trained with, in the words of its file."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from .config import Study, Variant

STUDY_FILE = 'study.yaml'


def describe_settings(study: Study, linked: bool, sizes: Mapping[str, Collection[float]]) -> str:
    """Return the flags of all runs, then those of each data set, architecture and method.

    Args:
        study: The study.
        linked: Whether the study file lies beside the report, as `STUDY_FILE`.
        sizes: Millions of parameters that the runs of each architecture have, '' where the study names none.
    """
    lines = [f'- All runs: {_flags(study.train)}{_parameters(sizes.get("", ()))}.']
    lines += [f'- {variant.label}: {_changes(variant)}.' for variant in study.data.values()]
    lines += [
        f'- {variant.label}: {_changes(variant)}{_parameters(sizes.get(name, ()))}.'
        for name, variant in study.models.items()
    ]
    lines += [f'- {variant.label}: {_changes(variant)}.' for variant in study.methods.values()]
    file = f'[`{STUDY_FILE}`]({STUDY_FILE})' if linked else 'the study file'
    return '\n'.join([f'Flags of train.py, from {file}; the others have its defaults.', '', *lines])


def _changes(variant: Variant) -> str:
    parts = [_flags(variant.train)] if variant.train else []
    parts += [f'`{flag}` × {factor:g}' for flag, factor in variant.times.items()]
    return ', '.join(parts) or 'nothing else'


def _parameters(millions: Collection[float]) -> str:
    """Return the number of parameters, or their range: data sets differ in their number of classes."""
    if not millions:
        return ''
    ends = [f'{end:g}' for end in (min(millions), max(millions))]
    return f'; {" to ".join(dict.fromkeys(ends))} million parameters'


def _flags(flags: Mapping[str, Any]) -> str:
    return ', '.join(f'`{flag}: {_value(value)}`' for flag, value in flags.items())


def _value(value: Any) -> str:
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return ' '.join(words.replace('`', "'").split()) or "''"
