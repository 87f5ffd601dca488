"""Checkpoints, weights of stylizers, released folders and class maps."""

import argparse
import hashlib
import io
import json
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn

from timm_debias.data.class_map import read_class_map
from timm_debias.hashing import hash_file
from timm_debias.stylizers import Stylizer
from timm_debias.stylizers.weights import load_stylizer
from timm_debias.training.checkpoint import read_checkpoint as read_training_checkpoint
from timm_debias.training.checkpoint import write_checkpoint
from timm_debias.weights.checkpoints import read_checkpoint
from timm_debias.weights.folder import check_folder

from .mutations import Evil, changed, damaged, values
from .target import target

STATE = {
    'conv.weight': torch.linspace(-1, 1, 108).reshape(4, 3, 3, 3),
    'bn.running_mean': torch.arange(4.0),
    'bn.num_batches_tracked': torch.tensor(7),
}
CHECKPOINT = {'state_dict': STATE, 'epoch': 3, 'arch': 'x', 'metric': 50.0, 'args': argparse.Namespace(lr=0.1)}


def _saved(content: object, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


@target('damaged checkpoints', damaged(_saved(CHECKPOINT)), 60)
def read_damaged(data: bytes, folder: Path) -> None:
    path = folder / 'model.pth.tar'
    path.write_bytes(data)
    assert _same(read_checkpoint(path).state, STATE), 'other weights than were written'


@target('damaged checkpoints of old torch', damaged(_saved(CHECKPOINT, zipped=False)), 30)
def read_damaged_old(data: bytes, folder: Path) -> None:
    """There are no checksums in them: the file is what it says."""
    path = folder / 'model.pth.tar'
    path.write_bytes(data)
    state = read_checkpoint(path).state
    texts = {argument for _, argument, _ in _opcodes(data) if isinstance(argument, str)}
    assert set(state) <= texts


def _opcodes(data: bytes):
    file = io.BytesIO(data)
    for _ in range(5):  # Magic number, version, system, content, names of the storages.
        yield from pickletools.genops(file)


@st.composite
def _odd(draw) -> object:
    """What a checkpoint may be made of by somebody else."""
    endless: list = []
    endless.append(endless)
    many: list = ['x']
    for _ in range(40):
        many = [many, many]
    tensors = st.sampled_from(
        [
            torch.ones(2, 2), torch.tensor(float('nan')), torch.ones(1).expand(1 << 40), torch.eye(3).to_sparse(),
            torch.empty(5, device='meta'), torch.ones(2, dtype=torch.complex64), torch.ones(0), torch.ones(3).bool(),
            nn.Parameter(torch.ones(2)),
        ]
    )  # fmt: skip
    item = values() | tensors | st.sampled_from([Evil(), nn.Linear(1, 1), endless, many, {1: torch.ones(1)}, b'x'])
    state = st.dictionaries(st.sampled_from([*STATE, 'module.x', 'a.aux_bn.weight']), tensors | item, max_size=3)
    content = st.dictionaries(
        st.sampled_from(
            ['state_dict', 'model', 'state_dict_ema', 'task_state', 'args', 'metric', 'epoch', 'timm_debias']
        ),
        state | item,
        max_size=4,
    )
    return draw(state | content | item)


@target('checkpoints of other things', _odd(), 60)
def read_odd(content: object, folder: Path) -> None:
    path = folder / 'model.pth.tar'
    path.write_bytes(_saved(content))
    state = read_checkpoint(path).state
    given = content if isinstance(content, dict) else {}
    given = next((given[key] for key in ('state_dict', 'model') if isinstance(given.get(key), dict)), given)
    assert state
    for key, value in state.items():
        original = next(item for name, item in given.items() if name.endswith(key))
        assert torch.equal(value, original)
        assert not value.is_floating_point() or value.isfinite().all()


@target('checkpoints of other things, to go on from', _odd(), 40)
def read_odd_training(content: object, folder: Path) -> None:
    path = folder / 'last.pth.tar'
    path.write_bytes(_saved(content))
    found = read_training_checkpoint(path)
    assert isinstance(found, dict)


def _of_training() -> bytes:
    content = {**CHECKPOINT, 'timm_debias': {'serial': 1, 'epoch': 3, 'batch': 0}}
    path = Path('/dev/shm' if Path('/dev/shm').is_dir() else '.') / f'fuzz-{id(content)}.pth.tar'
    write_checkpoint(path, content)
    data = path.read_bytes()
    path.unlink()
    return data


@target('damaged checkpoints, to go on from', st.deferred(lambda: damaged(_of_training())), 50)
def read_damaged_training(data: bytes, folder: Path) -> None:
    path = folder / 'last.pth.tar'
    path.write_bytes(data)
    assert _same(read_training_checkpoint(path)['state_dict'], STATE), 'other weights than were written'


class Tiny(Stylizer):
    """A stylizer with few weights."""

    architecture = 'tiny'

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)


TENSORS = {'conv.weight': torch.linspace(0, 1, 54).reshape(2, 3, 3, 3), 'conv.bias': torch.tensor([0.5, -0.5])}
SAFETENSORS = save_safetensors(TENSORS, {'stylizer': 'tiny'})
HEADER = json.loads(SAFETENSORS[8 : 8 + struct.unpack('<Q', SAFETENSORS[:8])[0]])
DATA = SAFETENSORS[8 + struct.unpack('<Q', SAFETENSORS[:8])[0] :]


def _with_header(header: object) -> bytes:
    words = json.dumps(header).encode(errors='surrogatepass')
    return struct.pack('<Q', len(words)) + words + DATA


GIANT = st.sampled_from([2**64 - 1, 2**63, 2**40, 200_000_000, len(SAFETENSORS), 0]).map(
    lambda length: struct.pack('<Q', length) + SAFETENSORS[8:]
)


@target('weights of stylizers', damaged(SAFETENSORS) | changed(HEADER).map(_with_header) | GIANT, 60)
def read_stylizer(data: bytes, folder: Path) -> None:
    path = folder / 'tiny.safetensors'
    path.write_bytes(data)
    stylizer = load_stylizer(Tiny(), path)
    (length,) = struct.unpack('<Q', data[:8])
    header = json.loads(data[8 : 8 + length])
    assert header['__metadata__']['stylizer'] == 'tiny'
    kinds = {'F32': np.float32, 'F16': np.float16, 'F64': np.float64}
    for name, parameter in stylizer.state_dict().items():
        start, end = header[name]['data_offsets']
        raw = np.frombuffer(data[8 + length + start : 8 + length + end], kinds[header[name]['dtype']])
        assert header[name]['shape'] == list(parameter.shape)
        assert np.array_equal(raw.astype(np.float32), parameter.numpy().reshape(-1))


RELEASED = {
    'model.safetensors': SAFETENSORS,
    'config.json': json.dumps({'architecture': 'resnet18', 'num_classes': 8}).encode(),
}


@st.composite
def _released(draw) -> tuple[bytes, bytes]:
    """SHA256SUMS and config.json of a released folder."""
    config = draw(st.just(RELEASED['config.json']) | damaged(RELEASED['config.json']))
    if draw(st.booleans()):
        config = json.dumps(draw(changed(json.loads(RELEASED['config.json'])))).encode()
    files = RELEASED | {'config.json': config}
    sums = ''.join(f'{hashlib.sha256(content).hexdigest()}  {name}\n' for name, content in files.items()).encode()
    more = st.sampled_from(['../model.safetensors', '..', '/etc/hostname', 'a/b', 'config.json', '.', '\x00'])
    if draw(st.booleans()):
        sums += f'{"0" * 64}  {draw(more)}\n'.encode()
    return draw(st.just(sums) | damaged(sums)), config


@target('released folders', _released(), 40)
def read_released(files: tuple[bytes, bytes], folder: Path) -> None:
    sums, config = files
    (folder / 'SHA256SUMS').write_bytes(sums)
    for name, content in (RELEASED | {'config.json': config}).items():
        (folder / name).write_bytes(content)
    assert check_folder(folder) == json.loads(config)
    for line in sums.decode().splitlines():
        if line.strip():
            assert hash_file(folder / line[66:]) == line[:64]


TEXT = b'cat\ndog\nhorse\nzebra\n'
MAPS = st.dictionaries(st.text(max_size=4) | st.integers(0, 9), st.integers(-1, 5) | values(), max_size=4)


@target('class maps', damaged(TEXT) | st.text(max_size=30).map(lambda text: text.encode(errors='replace')), 30)
def read_map(data: bytes, folder: Path) -> None:
    path = folder / 'map.txt'
    path.write_bytes(data)
    found = read_class_map(str(path))
    lines = path.read_text(encoding='utf-8').splitlines() if '\x0b' not in data.decode() else None
    if lines is not None and all(character.isprintable() for line in lines for character in line):
        assert found == {line.strip(): number for number, line in enumerate(lines)}


@target('class maps in pickles', MAPS | st.sampled_from([Evil(), {'a': Evil()}, [1], {'a': 1, 'b': [Evil()]}]), 30)
def read_pickled_map(content: object, folder: Path) -> None:
    path = folder / 'map.pkl'
    path.write_bytes(pickle.dumps(content))
    assert read_class_map(str(path)) == content


@target('archives', st.lists(st.sampled_from(['stored', 'deflated', 'twice', 'other']), min_size=1, max_size=3), 10)
def read_archive(kinds: list[str], folder: Path) -> None:
    """A file of torch.save, packed again in ways in which torch does not."""
    path = folder / 'model.pth'
    with zipfile.ZipFile(io.BytesIO(_saved(STATE))) as original, zipfile.ZipFile(path, 'w') as archive:
        for number, entry in enumerate(original.infolist()):
            kind = kinds[number % len(kinds)]
            packing = zipfile.ZIP_DEFLATED if kind == 'deflated' else zipfile.ZIP_STORED
            name = f'../{entry.filename}' if kind == 'other' else entry.filename
            for _ in range(1 + (kind == 'twice')):
                archive.writestr(name, original.read(entry), packing)
    assert _same(read_checkpoint(path).state, STATE)
