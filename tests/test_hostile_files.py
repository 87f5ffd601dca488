"""Files made to do harm, one class of attack after the other: nothing is executed, nothing written elsewhere."""

import argparse
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import FLAGS, make_folder

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.files import below, check_no_links
from timm_debias.make_benchmark.manifest import claim, read_complete
from timm_debias.study.config import read_study
from timm_debias.validation.results import PartResults, read_folders
from timm_debias.weight_files import load_safetensors, load_torch_file
from timm_debias.weights.checkpoints import read_checkpoint
from timm_debias.weights.folder import check_folder
from timm_debias.weights.packed import load_packed


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    """What code of a file would make; it must not be there in the end."""
    path = tmp_path / 'executed'
    yield path
    assert not path.exists()


@pytest.fixture
def refused(capsys):
    """Run a command, expect a refusal of one line that contains each of `parts`."""

    def check(argv, *parts):
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if ': error: ' in line]
        assert lines == captured.err.splitlines()[-1:], captured.err
        assert 'Traceback' not in captured.err
        for part in parts:
            assert str(part) in lines[0], lines[0]

    return check


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp('data'))


class TestPickles:
    """Weights from anywhere: each way in which a file gets to torch or timm."""

    @pytest.fixture(params=['zip', 'legacy', 'pickle'])
    def evil(self, request, tmp_path, marker):
        path = tmp_path / 'evil.pth.tar'
        content = {'state_dict': {'weight': Evil(marker)}, 'epoch': 1}
        if request.param == 'pickle':
            path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=request.param == 'zip')
        return path

    @pytest.mark.parametrize(
        'flags', [['--initial-checkpoint'], ['--pretrained', '--pretrained-path'], ['--resume'], ['--kd-model-name']],
        ids=lambda flags: flags[-1],
    )  # fmt: skip
    def test_training(self, evil, data, tmp_path, refused, flags):
        if flags == ['--kd-model-name']:
            folder = tmp_path / 'teacher'
            folder.mkdir()
            evil.rename(folder / 'pytorch_model.bin')
            (folder / 'config.json').write_text('{"architecture": "test_resnet", "num_classes": 3}')
            value = f'local-dir:{folder}'
        else:
            value = str(evil)
        refused(['train', '--data-dir', data, *FLAGS, '--output', tmp_path / 'out', *flags, value], value)

    def test_validation(self, evil, data, refused):
        flags = ['--model', 'test_resnet', '--num-classes', '3', '--device', 'cpu', '-j', '0']
        refused(['validate', '--data-dir', data, *flags, '--checkpoint', evil], str(evil))
        refused(['validate', '--data-dir', data, *flags, '--checkpoint', evil, '--use-ema'], str(evil))

    @pytest.mark.parametrize('command', ['convert', 'average', 'export'])
    def test_commands(self, evil, tmp_path, refused, command):
        (tmp_path / 'other.pth').write_bytes(evil.read_bytes())
        argv = {
            'convert': [evil, '--arch', 'test_resnet', '--out', tmp_path / 'out'],
            'average': [evil, tmp_path / 'other.pth', '--output', tmp_path / 'out.safetensors'],
            'export': ['test_resnet', '--checkpoint', evil, '--output', tmp_path / 'out.pt2'],
        }[command]
        refused([command, *argv], 'evil.pth.tar')
        assert not list(tmp_path.glob('out*'))

    def test_newest_checkpoint_of_a_run(self, evil, data, tmp_path, refused):
        run = tmp_path / 'runs' / 'run'
        run.mkdir(parents=True)
        evil.rename(run / 'last.pth.tar')
        argv = ['train', '--data-dir', data, *FLAGS, '--output', run.parent, '--experiment', 'run', '--resume', 'auto']
        refused(argv, 'no checkpoint', 'is intact')

    def test_stylizer(self, evil, tmp_path, refused, data):
        folder = tmp_path / 'vgg'
        folder.mkdir()
        for name in ('vgg_normalised.pth', 'decoder.pth'):
            (folder / name).write_bytes(evil.read_bytes())
        flags = ['--debias', '--debias-stylizer', 'adain_vgg19', '--debias-stylizer-weights', folder]
        refused(['train', '--data-dir', data, *FLAGS, '--output', tmp_path / 'out', *flags], 'vgg_normalised.pth')

    def test_class_map(self, data, tmp_path, marker, refused):
        path = tmp_path / 'map.pkl'
        path.write_bytes(pickle.dumps({'blue': Evil(marker)}))
        argv = ['train', '--data-dir', data, *FLAGS, '--output', tmp_path / 'out', '--class-map', path]
        refused(argv, 'map.pkl', 'not permitted')

    def test_arrays_of_objects(self, tmp_path, marker):
        np.savez(tmp_path / 'evil.npz', weight=np.array([Evil(marker)], dtype=object), allow_pickle=True)
        with pytest.raises(DebiasError, match='damaged, or not packed weights'):
            load_packed(tmp_path / 'evil.npz')


class TestMemory:
    """Small files that would fill it."""

    def test_tensor_larger_than_its_file(self, tmp_path):
        torch.save({'weight': torch.ones(1).expand(1 << 40)}, tmp_path / 'model.pth')
        with pytest.raises(DebiasError, match='more than the file holds'):
            load_torch_file(tmp_path / 'model.pth')

    def test_packed_parts(self, tmp_path):
        torch.save({'weight': torch.zeros(1_000_000)}, tmp_path / 'plain.pth')
        with (
            zipfile.ZipFile(tmp_path / 'plain.pth') as plain,
            zipfile.ZipFile(tmp_path / 'packed.pth', 'w', zipfile.ZIP_DEFLATED) as packed,
        ):
            for entry in plain.infolist():
                packed.writestr(entry.filename, plain.read(entry))
        assert (tmp_path / 'packed.pth').stat().st_size < 20_000
        with pytest.raises(DebiasError, match='its parts are compressed'):
            load_torch_file(tmp_path / 'packed.pth')

    @pytest.mark.parametrize('kind', ['endless', 'billions'])
    def test_lists_of_lists(self, tmp_path, kind):
        value: list = ['x']
        if kind == 'endless':
            value.append(value)
        else:
            for _ in range(64):
                value = [value, value]
        torch.save({'state_dict': {'weight': torch.ones(1)}, 'args': argparse.Namespace(x=value)}, tmp_path / 'm.pth')
        with pytest.raises(DebiasError, match=r'within each other|more than 1,000,000 values'):
            read_checkpoint(tmp_path / 'm.pth')

    @pytest.mark.parametrize('length', [2**64 - 1, 2**40, 10**9])
    def test_giant_header(self, tmp_path, length):
        (tmp_path / 'm.safetensors').write_bytes(struct.pack('<Q', length) + b'{}' + bytes(100))
        with pytest.raises(DebiasError, match='damaged, or not a safetensors file'):
            load_safetensors(tmp_path / 'm.safetensors')

    def test_damaged_tensors(self, tmp_path):
        """torch.load alone takes them: it does not look at the checksums."""
        path = tmp_path / 'm.pth'
        torch.save({'weight': torch.ones(1000)}, path)
        content = bytearray(path.read_bytes())
        content[content.find(struct.pack('<f', 1.0) * 100) + 50] ^= 1
        path.write_bytes(content)
        assert not torch.equal(torch.load(path, weights_only=True)['weight'], torch.ones(1000))
        with pytest.raises(DebiasError, match=r'the checksum of .* differs'):
            load_torch_file(path)


EXECUTES = {
    'tag': '!!python/object/apply:os.mkdir [{marker}]',
    'nested tag': 'lr: !!python/object/apply:os.mkdir [{marker}]',
    'device module': 'device_modules: [evil_module]',
    'remote code': 'dataset: hfds/x\ndataset_trust_remote_code: true',
    'pipe': 'dataset: wds/x\ndata_dir: "pipe:mkdir {marker}; cat "',
    'pipe in a split': 'dataset: wds/x\ntrain_split: "a.tar::pipe:mkdir {marker}"',
    'downloading program': 'dataset: wds/x\ndata_dir: "http://127.0.0.1/"',
}


class TestYaml:
    @pytest.mark.parametrize('kind', EXECUTES)
    def test_flags(self, tmp_path, marker, refused, monkeypatch, data, kind):
        (tmp_path / 'evil_module.py').write_text(f'import os\nos.mkdir({str(marker)!r})\n')
        monkeypatch.syspath_prepend(str(tmp_path))
        path = tmp_path / 'args.yaml'
        path.write_text(EXECUTES[kind].format(marker=marker))
        refused(['train', '-c', path, '--device', 'cpu'], str(path))
        study = tmp_path / 'study.yaml'
        content = {'name': 's', 'title': 's', 'validate': {'benchmarks': 'folder'}, 'methods': {'a': {}}, 'seeds': [0]}
        content |= {'baselines': ['a'], 'measures': {'a': 'folder_top1'}, 'train': {'recipe': 'args.yaml'}}
        study.write_text(yaml.safe_dump(content))
        refused(['study', study, '--output', tmp_path / 'out'], str(study))

    def test_command_line_may_ask_for_it(self, tmp_path, monkeypatch, refused):
        (tmp_path / 'evil_module.py').write_text(f'import os\nos.mkdir({str(tmp_path / "asked")!r})\n')
        monkeypatch.syspath_prepend(str(tmp_path))
        refused(['train', '--device-modules', 'evil_module', '--model', 'none', '--device', 'cpu'], 'unknown model')
        assert (tmp_path / 'asked').is_dir()

    def test_release_reads_what_it_does_not_execute(self, tmp_path, refused):
        """The run of someone who trained with it can be released: the module is not imported."""
        (tmp_path / 'args.yaml').write_text('device_modules: [no_such_module]\ndevice: cpu\nmodel: test_resnet\n')
        refused(['release', tmp_path, '--name', 'x', '--license', 'mit'], 'has neither model_best.pth.tar')

    @pytest.mark.parametrize('name', ['../x', '/x', 'a/../../x', '.', 'a//b'])
    def test_place_of_a_run(self, tmp_path, refused, name):
        path = tmp_path / 'args.yaml'
        path.write_text(yaml.safe_dump({'experiment': name, 'output': str(tmp_path / 'runs'), 'device': 'cpu'}))
        refused(['train', '-c', path, '--dataset', 'shapes_textures'], '--experiment', 'expected a path below')

    def test_plain_address(self, tmp_path, refused):
        path = tmp_path / 'args.yaml'
        path.write_text('pretrained_cfg_overlay: {url: "http://127.0.0.1/model.pth"}\ndevice: cpu\n')
        refused(['train', '-c', path], 'only addresses that begin with https')

    @pytest.mark.parametrize('name', ['../x', 'a/b', '.x', '', 'x\ny'])
    def test_names_of_a_study(self, tmp_path, name):
        content = {'name': 's', 'title': 's', 'validate': {}, 'methods': {name: {}}, 'seeds': [0], 'train': {}}
        (tmp_path / 's.yaml').write_text(yaml.safe_dump(content | {'baselines': [name], 'measures': {'a': 'b'}}))
        with pytest.raises(DebiasError, match='becomes part of file names'):
            read_study(tmp_path / 's.yaml')


class TestNames:
    @pytest.mark.parametrize('name', ['../x', '..', '/x', 'a/../x', '', '.', 'a//b', 'a\\b', 'c:x', 'a\0b', 'a/'])
    def test_below(self, name):
        with pytest.raises(DebiasError, match='leads out of'):
            below(Path('folder'), name, 'file')
        assert below(Path('folder'), 'a/b.c', 'file') == Path('folder/a/b.c')

    def test_corruptions_of_a_manifest(self, tmp_path):
        """They become folders that are read, and files that results are written to."""
        manifest = {'kind': 'corrupted', 'complete': True, 'source': {'classes': ['a']}}
        manifest |= {'parameters': {'img_size': 32, 'corruptions': ['../../x']}}
        (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
        with pytest.raises(DebiasError, match=r"'../../x' is no corruption"):
            read_complete(tmp_path, 'corrupted')

    def test_parts_of_results(self, tmp_path):
        results = PartResults(tmp_path / 'results', {}, resume=False)
        with pytest.raises(DebiasError, match='leads out of'):
            results.save('folder-c/../../../x', {}, {})
        assert [path.name for path in tmp_path.iterdir()] == ['results']

    @pytest.mark.parametrize('name', ['../other', '/etc', '..'])
    def test_folders_of_many_models(self, tmp_path, name):
        (tmp_path / 'results.json').write_text(json.dumps([{'folder': name, 'model': 'x'}]))
        with pytest.raises(DebiasError, match='leads out of'):
            read_folders(tmp_path)

    @pytest.mark.parametrize('name', ['../x', '/etc/hostname', '..', 'a/b', '.x'])
    def test_files_of_a_released_folder(self, tmp_path, name):
        lines = [f'{"0" * 64}  model.safetensors', f'{"0" * 64}  {name}']
        (tmp_path / 'SHA256SUMS').write_text('\n'.join(lines))
        with pytest.raises(DebiasError, match='SHA256SUMS is damaged'):
            check_folder(tmp_path)

    @pytest.mark.parametrize('name', ['../x', 'a/b', '..', '.x', ''])
    def test_name_of_a_release(self, tmp_path, refused, name):
        (tmp_path / 'args.yaml').write_text('{}')
        refused(['release', tmp_path, '--name', name, '--license', 'mit'], '--name')

    @pytest.mark.parametrize('name', ['../a/x.png', '/a/x.png', 'a/../../b/x.png'])
    def test_archives(self, tmp_path, data, refused, name):
        image = next((data / 'train').glob('*/*.png')).read_bytes()
        with tarfile.open(tmp_path / 'train.tar', 'w') as tar:
            for number, place in enumerate(('blue/0.png', 'green/0.png', 'red/0.png', name)):
                info = tarfile.TarInfo(place)
                info.size = len(image)
                tar.addfile(info, io.BytesIO(image[: info.size] if number >= 0 else b''))
        before = sorted(tmp_path.rglob('*'))
        argv = ['train', '--data-dir', tmp_path / 'train.tar', *FLAGS, '--val-split', '', '-b', '2']
        refused([*argv, '--output', tmp_path / 'out'], 'leads out of the archive')
        assert sorted(tmp_path.rglob('*')) == before

    @pytest.mark.parametrize('name', ['../x.tar', '/x.tar', 'pipe:mkdir x'])
    def test_shards(self, tmp_path, refused, name):
        split = {'name': 'train', 'filenames': [name], 'shard_lengths': [1], 'num_samples': 1}
        (tmp_path / '_info.json').write_text(json.dumps({'splits': {'train': split}}))
        argv = ['train', '--dataset', 'wds/x', '--data-dir', tmp_path, *FLAGS, '--val-split', '']
        refused([*argv, '--output', tmp_path / 'out'], 'leads out of')


class TestLinks:
    """Links in a folder that somebody else packed must not lead what is written to other places."""

    def test_folders(self, tmp_path):
        elsewhere = tmp_path / 'elsewhere'
        elsewhere.mkdir()
        (elsewhere / '.x.json').write_text('mine')
        results = tmp_path / 'results'
        results.mkdir()
        (results / 'parts').symlink_to(elsewhere)
        with pytest.raises(DebiasError, match='parts is a link to another folder'):
            PartResults(results, {}, resume=True)
        assert (elsewhere / '.x.json').read_text() == 'mine'

    def test_the_folder_itself_may_be_one(self, tmp_path):
        (tmp_path / 'disk').mkdir()
        (tmp_path / 'results').symlink_to(tmp_path / 'disk')
        check_no_links(tmp_path / 'results', '--results-dir')

    def test_files_of_results(self, tmp_path):
        victim = tmp_path / 'victim'
        victim.write_text('mine')
        results = tmp_path / 'results'
        (results / 'parts').mkdir(parents=True)
        (results / 'run.json').symlink_to(victim)
        (results / 'parts' / 'a.json').symlink_to(victim)
        PartResults(tmp_path / 'new', {'model': 'x'}, resume=False)
        with pytest.raises(DebiasError):
            PartResults(results, {'model': 'x'}, resume=True)
        (results / 'parts' / 'a.json').unlink()
        PartResults(results, {'model': 'x'}, resume=False).save('b', {}, {})
        assert victim.read_text() == 'mine'
        assert not (results / 'run.json').is_symlink()

    def test_files_of_a_run(self, tmp_path, train_command):
        victim = tmp_path / 'victim'
        victim.write_text('mine')
        run = tmp_path / 'out' / 'run'
        run.mkdir(parents=True)
        for name in ('args.yaml', 'summary.csv', 'checkpoint-0.txt'):
            (run / name).symlink_to(victim)
        assert main(train_command(tmp_path / 'out', '--epochs', '1')) == 0
        assert victim.read_text() == 'mine'

    def test_made_benchmarks(self, tmp_path):
        """A benchmark that is gone on with."""
        (tmp_path / 'elsewhere').mkdir()
        claim(tmp_path / 'made', {'kind': 'corrupted'})
        (tmp_path / 'made' / 'fog').symlink_to(tmp_path / 'elsewhere')
        with pytest.raises(DebiasError, match='fog is a link to another folder'):
            claim(tmp_path / 'made', {'kind': 'corrupted'})
