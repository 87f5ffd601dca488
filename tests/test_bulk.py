"""`validate.py --models`: many models, one command."""

import csv
import json
import shutil

import pytest
import timm
import torch
from miniatures import SUITE_FLAGS
from test_distributed_suite import launch

from timm_debias.cli import main
from timm_debias.evaluate import predict
from timm_debias.validation import bulk
from timm_debias.validation.bulk_tables import sort_models
from timm_debias.validation.suite import run_suite

BENCHMARKS = ['--benchmarks', 'imagenet,imagenet-a']
FIGURE = 'imagenet_top1_partial'


@pytest.fixture(scope='module')
def checkpoints(suite_checkpoint, tmp_path_factory):
    """A folder of two checkpoints of test_resnet: a random one, and one that is right on some images."""
    folder = tmp_path_factory.mktemp('checkpoints')
    torch.manual_seed(1)
    torch.save(timm.create_model('test_resnet').state_dict(), folder / 'a_random.pth')
    shutil.copy(suite_checkpoint, folder / 'trained.pth')
    return folder


@pytest.fixture
def command(miniatures):
    def arguments(*argv) -> list[str]:
        return ['validate', *map(str, [*SUITE_FLAGS, '--data-root', miniatures, *BENCHMARKS, *argv])]

    return arguments


@pytest.fixture
def models(checkpoints, tmp_path):
    """A list of models, of which the second and the third fail."""
    path = tmp_path / 'models.txt'
    lines = [f'test_resnet,{checkpoints / "a_random.pth"}', f'test_vit,{checkpoints / "a_random.pth"}']
    lines += ['no_such_model', f'test_resnet,{checkpoints / "trained.pth"}']
    path.write_text('\n'.join(lines))
    return path


@pytest.fixture
def measured(monkeypatch):
    """The folders of the models that are measured, not merely read."""
    folders = []

    def record(config, machine):
        folders.append(config.suite.results_dir.rpartition('/')[2])
        return run_suite(config, machine)

    monkeypatch.setattr(bulk, 'run_suite', record)
    return folders


def error(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_folder_of_checkpoints(command, checkpoints, tmp_path, capsys):
    folder = tmp_path / 'results'
    assert main(command('--models', checkpoints, '--results-dir', folder)) == 0
    printed = json.loads((folder / 'results.json').read_text())
    assert capsys.readouterr().out == f'{(folder / "results.md").read_text()}\nResults: {folder}\n'
    assert [model['folder'] for model in printed] == ['test_resnet-trained', 'test_resnet-a_random']
    assert printed[0][FIGURE] > printed[1][FIGURE]
    rows = list(csv.DictReader((folder / 'results.csv').open()))
    assert list(rows[0])[:3] == ['model', 'top1', 'top1_err']
    assert [float(row[FIGURE]) for row in rows] == [model[FIGURE] for model in printed]
    assert rows[0]['checkpoint'] == str(checkpoints / 'trained.pth')
    assert '| test_resnet-trained | ' in (folder / 'results.md').read_text()
    alone = tmp_path / 'alone'
    assert main(command('--checkpoint', checkpoints / 'trained.pth', '--results-dir', alone)) == 0
    for name in ('results.json', 'results.csv', 'results.md', 'parts/imagenet.json', 'run.json'):
        assert (folder / 'test_resnet-trained' / name).read_bytes() == (alone / name).read_bytes()


def test_failing_models_do_not_end_the_run(command, models, tmp_path, capsys):
    folder = tmp_path / 'results'
    assert main(command('--models', models, '--results-dir', folder)) == 1
    output = capsys.readouterr()
    assert output.err.strip().splitlines()[-1] == '2 of 4 models failed: test_vit-a_random, no_such_model'
    rows = list(csv.DictReader((folder / 'results.csv').open()))
    assert [row['folder'] for row in rows] == [
        'test_resnet-trained', 'test_resnet-a_random', 'test_vit-a_random', 'no_such_model'
    ]  # fmt: skip
    assert 'not weights of test_vit' in rows[2]['error']
    assert "unknown model 'no_such_model'" in rows[3]['error']
    assert not rows[0]['error']
    assert '- no_such_model: unknown model' in (folder / 'results.md').read_text()
    assert len(json.loads((folder / 'results.json').read_text())) == 4


def test_unforeseen_failures_too(command, models, tmp_path, monkeypatch, capsys):
    def fail_once(config, machine):
        if 'random' in config.model.checkpoint:
            raise ZeroDivisionError('by hand')
        return run_suite(config, machine)

    monkeypatch.setattr(bulk, 'run_suite', fail_once)
    assert main(command('--models', models, '--results-dir', tmp_path / 'results')) == 1
    (first, *others) = json.loads((tmp_path / 'results' / 'results.json').read_text())
    assert first[FIGURE] > 0
    assert others[0]['error'] == 'ZeroDivisionError: by hand'


def test_finished_models_are_skipped(command, models, tmp_path, measured, capsys):
    arguments = command('--models', models, '--results-dir', tmp_path / 'results')
    assert main(arguments) == 1
    assert measured == ['test_resnet-a_random', 'test_vit-a_random', 'test_resnet-trained']
    before = (tmp_path / 'results' / 'results.json').read_bytes()
    measured.clear()
    assert main(arguments) == 2
    assert 'give --resume' in error(capsys)
    assert main([*arguments, '--resume']) == 1
    assert measured == ['test_vit-a_random']
    assert (tmp_path / 'results' / 'results.json').read_bytes() == before


def test_another_request_is_measured(command, checkpoints, tmp_path, measured, capsys):
    """More benchmarks are added to finished models; what was measured otherwise is refused, model by model."""
    arguments = command('--models', checkpoints, '--results-dir', tmp_path / 'results')
    assert main(arguments) == 0
    assert main([*arguments, '--resume', '--benchmarks', 'imagenet,imagenet-a,imagenet-r']) == 0
    assert len(measured) == 4
    assert '2 of 3 parts were measured before' in capsys.readouterr().err
    assert main([*arguments, '--resume', '--crop-pct', '1']) == 1
    assert 'crop_pct was' in (tmp_path / 'results' / 'results.csv').read_text()


def test_new_weights_of_an_old_name_are_refused(command, checkpoints, suite_checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoints, tmp_path / 'checkpoints')
    arguments = command('--models', folder, '--results-dir', tmp_path / 'results')
    assert main(arguments) == 0
    shutil.copy(suite_checkpoint, folder / 'a_random.pth')
    assert main([*arguments, '--resume']) == 1
    assert 'weights was' in (tmp_path / 'results' / 'results.csv').read_text()


def test_interrupted_and_resumed(command, checkpoints, tmp_path, monkeypatch):
    assert main(command('--models', checkpoints, '--results-dir', tmp_path / 'whole')) == 0
    arguments = command('--models', checkpoints, '--results-dir', tmp_path / 'results')

    def interrupt(config, machine):
        if 'trained' in config.model.checkpoint:
            raise KeyboardInterrupt
        return run_suite(config, machine)

    with monkeypatch.context() as patch:
        patch.setattr(bulk, 'run_suite', interrupt)
        assert main(arguments) == 130
    # The table was written after the first model.
    assert len(json.loads((tmp_path / 'results' / 'results.json').read_text())) == 1
    assert main([*arguments, '--resume']) == 0
    for name in ('results.json', 'results.csv', 'results.md'):
        assert (tmp_path / 'results' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


def test_shards(command, models, tmp_path, measured, capsys):
    folder = tmp_path / 'results'
    codes = [main(command('--models', models, '--results-dir', folder, '--shard', f'{i}/3')) for i in (1, 2, 3)]
    assert codes == [0, 1, 1]
    assert measured == ['test_resnet-a_random', 'test_resnet-trained', 'test_vit-a_random']
    assert len(json.loads((folder / 'results-1-of-3.json').read_text())) == 2
    assert (folder / 'results-2-of-3.csv').exists()
    assert not (folder / 'results.json').exists()
    # One table of all.
    measured.clear()
    assert main(command('--models', models, '--results-dir', folder, '--resume')) == 1
    assert measured == ['test_vit-a_random']
    assert len(json.loads((folder / 'results.json').read_text())) == 4


def test_several_processes(command, models, tmp_path):
    assert main(command('--models', models, '--results-dir', tmp_path / 'one')) == 1
    arguments = command('--models', models, '--results-dir', tmp_path / 'two')
    first, other = launch(lambda: main(arguments), 2, tmp_path / 'logs')
    assert (first[0], other[0]) == (1, 1)
    assert '2 of 4 models failed' in first[2]
    assert other[1:] == ('', '')
    for path in (tmp_path / 'one').rglob('*.*'):
        if path.is_file():
            assert (tmp_path / 'two' / path.relative_to(tmp_path / 'one')).read_text() == path.read_text()


def test_batches_are_halved_without_a_flag(command, checkpoints, tmp_path, monkeypatch):
    def short(model, batches, *arguments):
        for images, targets in batches:
            if len(images) > 2:
                raise torch.OutOfMemoryError('CUDA out of memory.')
            yield from predict(model, [(images, targets)], *arguments)

    monkeypatch.setattr('timm_debias.validation.measure.predict', short)
    assert main(command('--models', checkpoints, '--results-dir', tmp_path / 'results')) == 0
    for model in json.loads((tmp_path / 'results' / 'results.json').read_text()):
        assert model['benchmarks']['imagenet']['batch_sizes'] == [2]


def test_sorted_by_the_first_figure():
    def names(figure, *values):
        models = [{'model': str(value), 'top1': None, figure: value, 'top5': 3} for value in values]
        return [model['model'] for model in sort_models([{'model': 'failed', 'error': ''}, *models])]

    assert names('top1', 2, None, 3) == ['3', '2', 'failed', 'None']
    assert names('imagenet-a_top1', 2, 3) == ['3', '2', 'failed']
    assert names('imagenet-c_mce', 2, None, 3) == ['2', '3', 'failed', 'None']
    assert sort_models([]) == []


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--models', 'all', '--checkpoint', __file__, '--results-dir', 'r'], ['--checkpoint', 'model,checkpoint']),
        (['--models', 'all'], ['--results-dir']),
        (['--models', 'all', '--results-dir', 'r', '--benchmarks', ''], ['--benchmarks NAMES']),
        (['--shard', '1/2'], ['--shard', '--models']),
        (['--models', 'all', '--results-dir', 'r', '--shard', '3/2'], ["--shard '3/2'"]),
        (['--models', __file__, '--results-dir', 'r'], ['no line names a model of timm']),
        (['--models', 'nowhere*', '--results-dir', 'r'], ['--models nowhere*', 'no file']),
        (['--models', 'all', '--results-dir', 'r', '--results-file', 'a.csv'], ['--results-file']),
    ],
    ids=lambda value: ' '.join(value[:1]),
)
def test_mistakes(command, capsys, flags, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command(*flags)) == 2
    message = error(capsys)
    for part in parts:
        assert part in message
