"""From a training run to a published model and back: `timm-debias release`."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hub_stand_in import HubStandIn
from safetensors.torch import load_file

from timm_debias.cli import main
from timm_debias.flags import parse_with_yaml
from timm_debias.training.main import build_parser

TRAIN = [
    '--dataset', 'shapes_textures', '--model', 'test_resnet', '--num-classes', '8', '--img-size', '32', '--device',
    'cpu', '-j', '0', '-b', '16', '--train-num-samples', '64', '--val-num-samples', '96', '--epochs', '2',
    '--warmup-epochs', '0', '--lr', '0.02', '--debias', '--model-ema', '--model-ema-decay', '0.5',
]  # fmt: skip
VALIDATE = ['--device', 'cpu', '-j', '0', '-b', '64']


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory) -> Path:
    """A debiased run of two epochs."""
    root = tmp_path_factory.mktemp('run')
    assert main(['train', *TRAIN, '--output', str(root), '--experiment', 'a']) == 0
    return root / 'a'


@pytest.fixture(scope='module')
def results(run_dir) -> Path:
    """What validate.py measures of the run's best checkpoint."""
    folder = run_dir.parent / 'results'
    model = ['--model', 'test_resnet', '--num-classes', '8', '--img-size', '32']
    checkpoint = ['--checkpoint', str(run_dir / 'model_best.pth.tar')]
    arguments = [*model, *checkpoint, '--benchmarks', 'shapes_textures', '--results-dir', str(folder)]
    assert main(['validate', *arguments, *VALIDATE]) == 0
    return folder


def release(run_dir, *argv) -> int:
    return main(['release', str(run_dir), *map(str, argv)])


def error(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('timm-debias release: error: '), lines
    return lines[-1]


def validated(capsys, *argv) -> dict:
    capsys.readouterr()
    assert main(['validate', '--dataset', 'shapes_textures', '--num-samples', '96', *VALIDATE, *map(str, argv)]) == 0
    return json.loads(capsys.readouterr().out.split('--result\n')[1])


def test_round_trip_gives_the_same_figures(run_dir, tmp_path, capsys):
    folder = tmp_path / 'tiny'
    assert release(run_dir, '--name', 'tiny', '--license', 'cc0-1.0', '--output', folder) == 0
    row = validated(capsys, '--model', f'local-dir:{folder}')
    assert row['img_size'] == 32  # The run's, without a flag.
    flags = ['--num-classes', 8, '--img-size', 32]
    direct = validated(capsys, '--model', 'test_resnet', *flags, '--checkpoint', run_dir / 'model_best.pth.tar')
    assert {**row, 'model': ''} == {**direct, 'model': ''}
    with open(run_dir / 'summary.csv', newline='') as file:
        measured = [float(line['eval_top1']) for line in csv.DictReader(file)]
    averaged = validated(capsys, '--model', 'test_resnet', *flags, '--checkpoint', run_dir / 'model_best.pth.tar',
                         '--use-ema')  # fmt: skip
    assert averaged['top1'] == round(max(measured), 4)  # train.py validates the moving average.


def test_folder(run_dir, results, tmp_path, capsys):
    folder = tmp_path / 'tiny'
    arguments = ['--name', 'tiny-1.0', '--license', 'cc0-1.0', '--output', folder, '--results', results]
    assert release(run_dir, *arguments) == 0
    assert {path.name for path in folder.iterdir()} == {
        'README.md', 'SHA256SUMS', 'args.yaml', 'aux_bn.safetensors', 'config.json', 'model.safetensors',
    }  # fmt: skip
    config = json.loads((folder / 'config.json').read_text())
    assert config['architecture'] == 'test_resnet'
    assert config['label_names'][0] == 'disc+stripes'
    assert config['pretrained_cfg']['license'] == 'cc0-1.0'
    expected = torch.load(run_dir / 'model_best.pth.tar', weights_only=False)
    for name, state in (('model', expected['state_dict']), ('aux_bn', expected['task_state']['aux_bn'])):
        found = load_file(folder / f'{name}.safetensors')
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in found)
    card = (folder / 'README.md').read_text()
    measured = json.loads((results / 'results.json').read_text())
    for key in ('top1', 'shape_bias'):
        value = measured['benchmarks']['shapes_textures']['headline'][key]
        assert f'| shapes_textures | {key} | {value:.2f}' in card
    assert measured['weights'][:12] in card
    assert 'γ = 0.8, α = 0.5, stylizer adain_lite, auxiliary batch norm' in card
    args = yaml.safe_load((folder / 'args.yaml').read_text())
    assert args['epochs'] == 2
    assert not {'output', 'experiment', 'resume', 'config'} & args.keys()


def test_commands_of_the_card_repeat_the_run(run_dir, tmp_path):
    folder = tmp_path / 'tiny'
    assert release(run_dir, '--name', 'tiny', '--license', 'cc0-1.0', '--output', folder) == 0
    command = re.search(r'```bash\npython train.py (.*)\n```', (folder / 'README.md').read_text())[1]
    place = ['--output', str(tmp_path), '--experiment', 'again']
    assert main(['train', *shlex.split(command), *place]) == 0
    first, second = (
        torch.load(path / 'last.pth.tar', weights_only=False)['state_dict'] for path in (run_dir, tmp_path / 'again')
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    by_command, by_yaml = (
        vars(parse_with_yaml(build_parser(), argv))
        for argv in (shlex.split(command), ['-c', str(folder / 'args.yaml')])
    )
    assert by_command == by_yaml


def test_moving_average(run_dir, tmp_path, capsys):
    arguments = ['--name', 'tiny', '--license', 'cc0-1.0', '--output', tmp_path / 'tiny']
    assert release(run_dir, *arguments, '--use-ema', '--checkpoint', run_dir / 'last.pth.tar') == 0
    expected = torch.load(run_dir / 'last.pth.tar', weights_only=False)['state_dict_ema']
    found = load_file(tmp_path / 'tiny' / 'model.safetensors')
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert '`last.pth.tar` (moving average)' in (tmp_path / 'tiny' / 'README.md').read_text()


def test_average_of_a_run(run_dir, tmp_path):
    """The best checkpoints of a run, by what train.py has written into them, are averaged and released."""
    mean = tmp_path / 'mean.safetensors'
    assert main(['average', str(run_dir), '-n', '2', '--output', str(mean)]) == 0
    arguments = ['--name', 'tiny', '--license', 'cc0-1.0', '--output', tmp_path / 'tiny']
    assert release(run_dir, *arguments, '--checkpoint', mean) == 0
    paths = sorted(run_dir.glob('checkpoint-*.pth.tar'))
    with open(run_dir / 'summary.csv', newline='') as file:
        measured = [float(line['eval_top1']) for line in csv.DictReader(file)]
    checkpoints = [torch.load(path, weights_only=False) for path in paths]
    assert [checkpoint['metric'] for checkpoint in checkpoints] == measured
    found = load_file(tmp_path / 'tiny' / 'model.safetensors')
    for key, value in found.items():
        if value.is_floating_point():
            expected = sum(checkpoint['state_dict'][key].double() for checkpoint in checkpoints) / 2
            torch.testing.assert_close(value, expected.float(), rtol=0, atol=1e-7)


def test_nothing_of_the_machine_is_published(run_dir, tmp_path):
    other, base = tmp_path / 'run', tmp_path / 'secret' / 'base'
    shutil.copytree(run_dir, other)
    assert main(['convert', str(run_dir / 'last.pth.tar'), '--arch', 'test_resnet', '--out', str(base)]) == 0
    args = yaml.safe_load((other / 'args.yaml').read_text())
    secret = {
        'model': f'local-dir:{base}',
        'data_dir': '/home/secret/images',
        'initial_checkpoint': '/home/secret/start.pth',
        'dataset': '',
        'loss_class_weight': '/home/secret/weights.json',
        'loss_pos_weight': '1,2.5',
    }
    (other / 'args.yaml').write_text(yaml.safe_dump({**args, **secret}))
    assert release(other, '--name', 'tiny', '--license', 'cc0-1.0') == 0
    for path in (other / 'tiny').iterdir():
        assert b'secret' not in path.read_bytes()
        assert os.fsencode(tmp_path) not in path.read_bytes()
    card = (other / 'tiny' / 'README.md').read_text()
    assert '--model local-dir:base' in card
    assert '--data-dir DATA' in card
    assert json.loads((other / 'tiny' / 'config.json').read_text())['architecture'] == 'test_resnet'
    assert '--initial-checkpoint start.pth' in card
    assert '--loss-class-weight weights.json' in card
    assert '--loss-pos-weight 1,2.5' in card
    assert 'from pretrained weights' in card


def test_mistakes(run_dir, results, tmp_path, capsys):
    given = ['--name', 'tiny', '--license', 'cc0-1.0', '--output', tmp_path / 'tiny']
    assert release(run_dir, *given[2:]) == 2
    assert '--name' in error(capsys)
    assert release(run_dir, '--name', 'resnet18_debiased.shapes_textures', *given[2:]) == 2
    assert 'choose another name' in error(capsys)
    assert release(run_dir, *given[:2]) == 2
    assert 'no --license' in error(capsys)
    assert release(tmp_path, *given) == 2
    assert 'no args.yaml' in error(capsys)
    assert release(run_dir, *given, '--checkpoint', tmp_path / 'none.pth') == 2
    assert 'no such file' in error(capsys)
    assert release(run_dir, *given, '--push-to-hub', 'a/b/c') == 2
    assert '--push-to-hub a/b/c' in error(capsys)
    assert release(run_dir, *given, '--results', run_dir) == 2
    assert 'no results folder' in error(capsys)
    assert release(run_dir, *given, '--results', results, '--use-ema') == 2
    assert 'measured with other weights' in error(capsys)
    wrong = tmp_path / 'run'
    shutil.copytree(run_dir, wrong)
    args = yaml.safe_load((wrong / 'args.yaml').read_text())
    (wrong / 'args.yaml').write_text(yaml.safe_dump({**args, 'num_classes': 9}))
    assert release(wrong, *given) == 2
    assert "'fc.weight' is [8, " in error(capsys)
    assert not (tmp_path / 'tiny').exists()
    assert release(run_dir, *given) == 0
    assert release(run_dir, *given) == 2
    assert '--overwrite' in error(capsys)


def test_results_of_another_preprocessing(run_dir, results, tmp_path, capsys):
    """Its images are drawn at the input size, and not cropped: neither crop_pct nor interpolation matters for them."""
    given = ['--name', 'tiny', '--license', 'cc0-1.0', '--output', tmp_path / 'tiny', '--results', tmp_path / 'results']
    shutil.copytree(results, tmp_path / 'results')
    path = tmp_path / 'results' / 'results.json'
    measured = json.loads(path.read_text())
    assert measured['crop_pct'] == 0.95  # That of the architecture, where the run has 1.
    path.write_text(json.dumps({**measured, 'settings': {**measured['settings'], 'std': [0.25, 0.25, 0.25]}}))
    assert release(run_dir, *given) == 2
    assert 'with std 0.25 0.25 0.25, and the configuration to release has std 0.5 0.5 0.5; measure again' in error(
        capsys
    )
    path.write_text(json.dumps({**measured, 'img_size': 48}))
    assert release(run_dir, *given) == 2
    assert 'measured with img_size 48, and' in error(capsys)
    entry = measured['benchmarks']['shapes_textures']
    photographs = {**entry, 'protocol': 'resized by bicubic and cropped (center) to 32×32, crop_pct 0.95; top-1'}
    path.write_text(json.dumps({**measured, 'benchmarks': {'folder': photographs}}))
    assert release(run_dir, *given) == 2
    assert error(capsys).endswith(
        f'--results {tmp_path / "results"}: measured with crop_pct 0.95, and the configuration to release has '
        'crop_pct 1.0; measure again with --crop-pct 1.0'
    )
    published = {**entry, 'protocol': 'images as published, 224×224, no resize, no crop'}
    path.write_text(json.dumps({**measured, 'img_size': 48, 'benchmarks': {'stylized-imagenet': published}}))
    assert release(run_dir, *given) == 0


@pytest.fixture
def hub():
    stand_in = HubStandIn()
    yield stand_in
    stand_in.close()


def start(hub, code: str, tmp_path, **environment) -> subprocess.CompletedProcess:
    """Run Python with the stand-in as the hub, which huggingface_hub reads when it is imported."""
    settings = {'HF_ENDPOINT': hub.url, 'HF_HOME': str(tmp_path / 'hf'), 'HF_TOKEN': hub.token, 'HF_HUB_OFFLINE': '0'}
    return subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, **settings, **environment}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip


def test_upload(run_dir, hub, tmp_path):
    arguments = ['release', str(run_dir), '--name', 'tiny', '--license', 'cc0-1.0', '--output', str(tmp_path / 'tiny')]
    code = f"""
import sys, torch, timm
from timm_debias.cli import main
assert main({arguments!r}) == 0
from huggingface_hub import HfApi
calls = []
HfApi.create_repo, create = lambda *a, **k: calls.append(a), HfApi.create_repo
assert main({arguments!r} + ['--overwrite']) == 0 and not calls
HfApi.create_repo = create
assert main({arguments!r} + ['--overwrite', '--push-to-hub', 'someone/tiny']) == 0
models = [timm.create_model(name, pretrained=True) for name in ('hf-hub:someone/tiny', 'local-dir:{tmp_path}/tiny')]
first, second = (model.state_dict() for model in models)
assert all(torch.equal(first[key], second[key]) for key in first)
"""
    done = start(hub, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'{hub.url}/someone/tiny' in done.stdout
    assert hub.repositories['someone/tiny'] == {path.name: path.read_bytes() for path in (tmp_path / 'tiny').iterdir()}


def test_upload_that_fails(run_dir, hub, tmp_path):
    arguments = ['release', str(run_dir), '--name', 'tiny', '--license', 'cc0-1.0', '--output', str(tmp_path / 'tiny')]
    code = f'from timm_debias.cli import main; import sys; sys.exit(main({[*arguments, "--push-to-hub", "me/tiny"]!r}))'
    done = start(hub, code, tmp_path, HF_TOKEN='hf_wrong')
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('timm-debias release: error: --push-to-hub me/tiny: ')
    assert '401' in last
    assert not hub.repositories
    assert (tmp_path / 'tiny' / 'model.safetensors').is_file()
