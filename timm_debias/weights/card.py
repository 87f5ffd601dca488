"""Model cards: README.md of a released model, with the front matter that the Hugging Face hub reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..escaping import markdown_text
from ..markdown import table_lines
from .folder import AUX_WEIGHTS, Release
from .manifest import entries

_FILES = '## Files'


@dataclass(frozen=True)
class Section:
    """A part of a card."""

    title: str
    text: str
    """Markdown."""


def model_card(name: str, summary: str, release: Release, sections: Sequence[Section], sums: Mapping[str, str]) -> str:
    """Return the card of a model.

    Args:
        name: Name of the model.
        summary: What it is, a sentence or two.
        release: What is released.
        sections: What there is to say of its training and its figures.
        sums: SHA-256 of each file.
    """
    front = {
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'tags': ['image-classification', 'timm', 'timm-debias'],
        'license': release.about.get('license', 'unknown'),
    }
    network = release.network
    parts = [
        f'---\n{yaml.safe_dump(front, sort_keys=False)}---',
        f'# {markdown_text(name)}',
        summary,
        f'Architecture `{network.pretrained_cfg["architecture"]}`, {network.num_classes:,} classes, '
        f'{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} M parameters. '
        f'{preprocessing(release.data_config)} Licence: {markdown_text(front["license"])}.',
        _usage(name, release),
        *(f'## {section.title}\n\n{section.text}' for section in sections),
        files_section(sums),
    ]
    return '\n\n'.join(parts) + '\n'


def preprocessing(data_config: Mapping[str, Any]) -> str:
    """Return in a sentence how images have to be prepared."""
    _, height, width = data_config['input_size']
    mean, std = (', '.join(f'{value:g}' for value in data_config[key]) for key in ('mean', 'std'))
    return (
        f'Evaluation: {width}×{height} pixels, crop_pct {data_config["crop_pct"]:g}, {data_config["interpolation"]}, '
        f'mean {mean}, std {std}.'
    )


def _usage(name: str, release: Release) -> str:
    entry = entries().get(name)
    place = 'a folder of `timm-debias weights unpack`' if entry is not None and entry.packed else 'this folder'
    ways = ['', f"model = timm.create_model('local-dir:FOLDER', pretrained=True)  # {place}"]
    if entry is None:
        ways += [f"model = timm.create_model('hf-hub:USER/{name}', pretrained=True)  # once uploaded"]
    else:
        ways = ['import timm_debias', '', f"model = timm.create_model('{name}', pretrained=True)", ways[1]]
    lines = ['## Use', '', '```python', 'import timm', *ways, '```']
    if release.aux:
        lines += [
            '',
            f'`{AUX_WEIGHTS}` holds the auxiliary batch norm, which only training on stylised images uses.',
        ]
    return '\n'.join(lines)


def files_section(sums: Mapping[str, str]) -> str:
    """Return the last section of a card: the SHA-256 of each file."""
    rows = [(file, f'`{digest}`') for file, digest in sums.items()]
    return '\n'.join([_FILES, '', *table_lines(('file', 'SHA-256'), rows)])


def with_files(card: str, sums: Mapping[str, str]) -> str:
    """Return a card with other files in its last section."""
    return f'{card.partition(_FILES)[0]}{files_section(sums)}\n'
