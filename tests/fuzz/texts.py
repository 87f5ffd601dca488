"""Small texts: lists of models, of images and of labels, and YAML files of flags."""

import math
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from timm_debias.flags import parse_with_yaml
from timm_debias.training.checks import check_config
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.validation.benchmarks.subset import parse_subset
from timm_debias.validation.labels import read_valid_labels
from timm_debias.validation.model_lists import folder_names, list_entries

from .mutations import damaged, values
from .target import target

LABELS = b'3\n7\n1\n'


@target(
    'valid labels', damaged(LABELS) | st.lists(st.integers(-2, 12)).map(lambda n: '\n'.join(map(str, n)).encode()), 20
)
def read_labels(data: bytes, folder: Path) -> None:
    path = folder / 'labels.txt'
    path.write_bytes(data)
    found = read_valid_labels(str(path), 10)
    assert found is not None
    assert found.tolist() == [int(line) for line in data.decode().splitlines() if line.strip()]


LIST = b'n01440764/ILSVRC2012_val_00000293.JPEG\nn01440764/ILSVRC2012_val_00002138.JPEG\n'


@target('lists of images', damaged(LIST), 20)
def read_subset(data: bytes, folder: Path) -> None:
    path = folder / 'list.txt'
    path.write_bytes(data)
    subset = parse_subset(str(path), 0)
    assert subset is not None
    assert subset.files is not None
    assert sorted(subset.files) == sorted(filter(None, (line.strip() for line in data.decode().splitlines())))


MODELS = st.lists(
    st.sampled_from(['resnet50', 'resnet18,a/b.pth', '..', '../x', '/', '.', '# no', '=1', 'local-dir:..', 'a,b,c', ''])
    | st.text(max_size=10),
    max_size=4,
)


@target('lists of models', MODELS, 30)
def read_models(lines: list[str], folder: Path) -> None:
    path = folder / 'models.txt'
    path.write_text('\n'.join(['test_resnet', *lines]), encoding='utf-8', errors='replace')
    entries = list_entries(str(path), '', ())
    for name in folder_names(entries).values():
        assert (folder / name).resolve().parent == folder.resolve()
        assert (folder / name).resolve() != folder.resolve()
    said = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    said = [line for line in said if line and not line.startswith('#')]
    assert {entry.model for entry in entries} == {line.partition(',')[0].strip() for line in said}


FLAGS = [action.dest for action in build_parser()._actions if action.dest not in ('help', 'config')]
GOOD = {
    'model': 'test_resnet', 'device': 'cpu', 'lr': 0.1, 'epochs': 3, 'amp': False, 'mean': [0.5, 0.5, 0.5],
    'opt': 'adamw', 'debias': True, 'debias_alpha': 0.5, 'sched': 'step', 'decay_milestones': [1, 2],
    'model_kwargs': {'a': 1}, 'experiment': 'run', 'batch_size': 8, 'clip_grad': None,
}  # fmt: skip
RAW = (
    '!!python/object/apply:os.mkdir [executed]', 'lr: !!python/object/apply:os.mkdir [executed]', 'a: &a [*a]',
    'lr: 0.1\nlr: 0.2', '- lr', 'lr: 2001-99-99', 'device_modules: [antigravity]', 'dataset_trust_remote_code: true',
    'data_dir: "pipe:mkdir executed;"', 'experiment: ../../x', 'experiment: /x', 'model: null', 'lr: .nan', 'lr: .inf',
    'pretrained_cfg_overlay: {url: "http://x/y.pth"}', 'model: !!binary aGk=', 'lr: !!float x', '{', '\x00', '"', '? x',
)  # fmt: skip


@st.composite
def _yaml(draw) -> str:
    flags = {key: GOOD[key] for key in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=6))}
    flags['device'] = 'cpu'
    odd = st.integers(-3, 300) | st.floats() | st.sampled_from(['cpu', 'test_resnet', '0.5', '../x']) | values()
    flags |= draw(st.dictionaries(st.sampled_from(FLAGS), odd, max_size=2))
    text = yaml.safe_dump(flags)
    if draw(st.booleans()):
        return text
    more = draw(st.sampled_from(RAW) | st.text(max_size=20))
    return draw(st.sampled_from([more, f'{text}\n{more}']))


def same(said: Any, read: Any) -> bool:
    """Return whether a value that was read is what YAML, or a command line, says."""
    if isinstance(said, list) and isinstance(read, list):
        return len(said) == len(read) and all(map(same, said, read))
    if isinstance(said, (bool, dict)) or said is None:
        return said == read
    if isinstance(read, int) and not isinstance(read, bool):
        return int(str(said)) == read
    if isinstance(read, float):
        return math.isfinite(read) and float(str(said)) == read
    return str(said) == str(read)


@target('YAML files of flags', _yaml(), 100)
def read_flags(text: str, folder: Path) -> None:
    path = folder / 'flags.yaml'
    path.write_text(text, encoding='utf-8', errors='surrogatepass')
    args = parse_with_yaml(build_parser(), ['-c', str(path)])
    check_config(config_from_args(args))
    for key, value in yaml.safe_load(path.read_text(encoding='utf-8')).items():
        assert same(value, getattr(args, key)) or (value in (True, False) and str(value) == getattr(args, key)), key
