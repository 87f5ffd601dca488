"""The command `timm-debias weights`: what is released, and which of it is on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import DebiasError
from ..flags import Parser, add_flags, config_from, flag
from ..log import setup_logging
from .card import Section, model_card, with_files
from .convert import ConvertConfig, convert
from .folder import SUMS, WEIGHTS, Release, check_folder, copy_folder, read_sums, write_folder
from .manifest import PAGE, Entry, entries, get_entry
from .network import create_network
from .zoo import SHIPPED, folder_of, home, load_weights, source_of

ACTIONS = {
    'list': (),
    'add': ('source', 'name', 'use_ema', 'verify', 'overwrite'),
    'unpack': ('name', 'output', 'overwrite'),
}
"""Action -> flags it takes."""


@dataclass(frozen=True)
class WeightsConfig:
    """Released models"""

    action: str = flag('list', 'list: all released models; add: import weights; unpack: write a folder for plain timm',
                       'action', nargs='?', choices=list(ACTIONS))  # fmt: skip
    source: str = flag('', 'add: the official .pth.tar file, or a folder that convert or release made',
                       'source', nargs='?', metavar='FILE|DIR')  # fmt: skip
    name: str = flag('', 'name of the released model', metavar='NAME')
    output: str = flag('', 'unpack: folder to make', metavar='DIR')
    use_ema: bool = flag(False, 'add: take the moving average of the weights')
    verify: str = flag('', 'add: folder of images on which the logits must be the same before and after', metavar='DIR')
    overwrite: bool = flag(False, 'replace what is there')


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags, or files that are not what they should be.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias weights',
        description='Released models, which timm.create_model(NAME, pretrained=True) knows once timm_debias is '
        f'imported. Weights that are added lie in {home()} (TIMM_DEBIAS_HOME).',
    )
    add_flags(parser, WeightsConfig)
    config = config_from(WeightsConfig, parser.parse_args(argv))
    _check(config)
    if config.action == 'list':
        print(format_list())
        return 0
    entry = get_entry(config.name)
    if config.action == 'add':
        add(entry, config)
        print(f"timm.create_model('{entry.name}', pretrained=True)")
    else:
        unpack(entry, Path(config.output), config.overwrite)
        print(f"timm.create_model('local-dir:{config.output}', pretrained=True)")
    return 0


def _check(config: WeightsConfig) -> None:
    taken = ACTIONS[config.action]
    if config.source and 'source' not in taken and 'name' in taken:
        name = config.name or config.source
        raise DebiasError(f"'{config.source}': {config.action} takes the model by --name: give --name {name} alone")
    for field in fields(WeightsConfig):
        if field.name not in ('action', *taken) and getattr(config, field.name):
            flag_name = 'FILE|DIR' if field.name == 'source' else f'--{field.name.replace("_", "-")}'
            raise DebiasError(f'{flag_name} has no effect on {config.action}: leave it out')
    if 'name' in taken and not config.name:
        raise DebiasError(f'no --name: give the name of a released model: {", ".join(entries())}')
    if 'source' in taken and not config.source:
        raise DebiasError('nothing to add: give the official .pth.tar file, or a folder that convert or release made')
    if 'output' in taken and not config.output:
        raise DebiasError('no --output: name a new folder')


def format_list() -> str:
    """Return a table of the released models: where their weights are, and what they come from."""
    rows = [('name', 'architecture', 'weights', 'from')]
    for entry in entries().values():
        origin = f'{entry.offered_as}, {PAGE}' if entry.offered_as else 'timm-debias'
        rows.append((entry.name, entry.architecture, _state(entry), origin))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return '\n'.join(lines)


def _state(entry: Entry) -> str:
    if entry.packed:
        return 'shipped'
    source = source_of(entry)
    return 'here' if 'file' in source else 'to download' if source else 'to be added'


def add(entry: Entry, config: WeightsConfig) -> None:
    """Put weights into the zoo: from a folder as they are, from a checkpoint converted.

    Raises:
        DebiasError: not weights of this model.
    """
    if entry.packed:
        raise DebiasError(f'{entry.name} is shipped with this package; there is nothing to add')
    source, target = Path(config.source), folder_of(entry)
    if not source.is_dir():
        convert(
            ConvertConfig(
                checkpoint=config.source,
                arch=entry.architecture,
                output=str(target),
                name=entry.name,
                num_classes=entry.num_classes,
                use_ema=config.use_ema,
                verify=config.verify,
                overwrite=config.overwrite,
            )
        )
        return
    for name in ('use_ema', 'verify'):
        if getattr(config, name):
            raise DebiasError(f'--{name.replace("_", "-")} is for a checkpoint, and {source} is a folder')
    found = check_folder(source)
    wanted = (entry.architecture, entry.num_classes)
    if (found.get('architecture'), found.get('num_classes')) != wanted:
        raise DebiasError(
            f'{source} holds a {found.get("architecture")} of {found.get("num_classes")} classes; {entry.name} is a '
            f'{wanted[0]} of {wanted[1]}'
        )
    digest = read_sums(source)[WEIGHTS]
    if entry.sha256 and digest != entry.sha256:
        raise DebiasError(f'{source / WEIGHTS}: SHA-256 is {digest} and the released one has {entry.sha256}')
    copy_folder(source, target, config.overwrite)


def unpack(entry: Entry, folder: Path, overwrite: bool = False) -> None:
    """Write a released model to a folder that plain timm loads as `local-dir:`.

    Raises:
        DebiasError: its weights are nowhere, or the folder holds something.
    """
    if (folder_of(entry) / SUMS).is_file():
        check_folder(folder_of(entry))
        copy_folder(folder_of(entry), folder, overwrite)
        return
    network = create_network(entry.architecture, entry.num_classes, {})
    release = Release(network, load_weights(entry), entry.data_config, entry.about, label_names=entry.label_names)
    written = SHIPPED / f'{entry.name}.md'

    def card(sums: Mapping[str, str]) -> str:
        if written.is_file():
            return with_files(written.read_text(encoding='utf-8'), sums)
        where = Section('Origin', f'{entry.url or entry.hf_hub_id}.')
        return model_card(entry.name, 'A model released by timm-debias.', release, [where], sums)

    write_folder(folder, release, card, overwrite=overwrite)
