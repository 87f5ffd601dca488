"""The study file and the grid of its runs: what they say, and mistakes in them."""

import copy
import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.study.config import read_study
from timm_debias.study.grid import check_runs, expand, filled, select

STUDY = {
    'name': 'tiny',
    'title': 'Tiny',
    'train': {'data_dir': '${DATA}/train', 'model': 'test_resnet', 'num_classes': 3, 'epochs': 4, 'device': 'cpu'},
    'validate': {'benchmarks': 'folder', 'benchmark_dir': ['folder=${DATA}/${data}/test']},
    'data': {'noto': {'label': 'Noto'}, 'twemoji': {'validate': {'seed': 7}}},
    'models': {'resnet': {}, 'vit': {'model': 'test_vit', 'img_size': 32, 'model_kwargs': {'img_size': 32}}},
    'methods': {
        'plain': None,
        'double': {'label': 'plain, twice the epochs', 'times': {'epochs': 2}},
        'debiased': {'debias': True, 'debias_gamma': 0.9},
    },
    'seeds': [0, 1],
    'baselines': ['plain', 'double'],
    'measures': {'accuracy': 'folder_top1', 'mCE': {'column': 'folder-c_mce', 'better': 'lower'}},
}


def write(folder: Path, *changes) -> Path:
    """Make the folders of its tests, and write the study with changes: (keys, value), or (keys,) to remove one."""
    values = copy.deepcopy(STUDY)
    for keys, *value in changes:
        place = values
        *parents, last = keys.split('/')
        for key in parents:
            place[key] = place[key] or {}
            place = place[key]
        if value:
            place[last] = value[0]
        else:
            del place[last]
    for name in ('noto', 'twemoji'):
        (folder / name / 'test').mkdir(parents=True, exist_ok=True)
    path = folder / 'study.yaml'
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding='utf-8')
    return path


@pytest.fixture
def study(tmp_path):
    return read_study(write(tmp_path))


def test_grid(study):
    runs = expand(study)
    assert len(runs) == 2 * 2 * 3 * 2 == len({run.name for run in runs})
    assert [run.name for run in runs[:4]] == [
        'noto.resnet.plain.0', 'noto.resnet.double.0', 'noto.resnet.debiased.0', 'noto.vit.plain.0'
    ]  # fmt: skip
    assert all(run.seed == 0 for run in runs[:12])


def test_flags_of_a_run(study):
    runs = {run.name: run for run in expand(study)}
    run = runs['twemoji.vit.debiased.1']
    common = {'model': 'test_vit', 'num_classes': 3, 'device': 'cpu', 'img_size': 32, 'model_kwargs': {'img_size': 32}}
    assert run.train == {
        **common, 'data_dir': '${DATA}/train', 'epochs': 4, 'debias': True, 'debias_gamma': 0.9
    }  # fmt: skip
    assert run.validate == {**common, 'seed': 7, **STUDY['validate']}
    assert repr(runs['noto.resnet.double.0'].train['epochs']) == '8'
    assert filled(run.validate['benchmark_dir'], run.variables | {'DATA': '/d'}) == ['folder=/d/twemoji/test']


def test_times_of_a_list(tmp_path):
    changes = [('train/decay_milestones', [2, 3]), ('methods/double/times', {'epochs': 1.5, 'decay_milestones': 2})]
    run = expand(read_study(write(tmp_path, *changes)))[1]
    assert repr((run.train['epochs'], run.train['decay_milestones'])) == '(6, [4, 6])'


def test_a_study_without_axes(tmp_path):
    runs = expand(read_study(write(tmp_path, ('data',), ('models',))))
    assert [run.name for run in runs[:3]] == ['plain.0', 'double.0', 'debiased.0']


def test_recipe(tmp_path):
    """The flags of a file that train.py takes as `-c`, relative to the study file; the study's own go before."""
    (tmp_path / 'recipes').mkdir()
    (tmp_path / 'recipes/a.yaml').write_text('epochs: 90\nlr: 0.1\ndebias: true\n')
    run = expand(read_study(write(tmp_path, ('methods/plain', {'recipe': 'recipes/a.yaml', 'debias': False}))))[0]
    assert {key: run.train[key] for key in ('epochs', 'lr', 'debias')} == {'epochs': 90, 'lr': 0.1, 'debias': False}
    run = expand(read_study(write(tmp_path, ('train/recipe', 'recipes/a.yaml'))))[1]
    assert (run.train['epochs'], run.train['lr']) == (8, 0.1)
    with pytest.raises(DebiasError, match=r'methods: plain: recipe .*absent\.yaml: no such file'):
        read_study(write(tmp_path, ('methods/plain', {'recipe': 'absent.yaml'})))


def test_shards_are_all_runs_once(study):
    runs = expand(study)
    shards = [select(runs, [], (number, 5)) for number in range(1, 6)]
    assert sorted(run.name for shard in shards for run in shard) == sorted(run.name for run in runs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_patterns(study):
    runs = expand(study)
    assert {run.name for run in select(runs, ['noto.*.plain.*', '*.vit.debiased.1'], (1, 1))} == {
        'noto.resnet.plain.0', 'noto.resnet.plain.1', 'noto.vit.plain.0', 'noto.vit.plain.1',
        'noto.vit.debiased.1', 'twemoji.vit.debiased.1',
    }  # fmt: skip
    with pytest.raises(DebiasError, match=r"--runs 'plain': no run .* such as noto\.resnet\.plain\.0"):
        select(runs, ['plain'], (1, 1))


def test_checks_see_good_flags(study, tmp_path):
    check_runs(expand(study), {'DATA': str(tmp_path)}, [], 'study.yaml')


def test_folders_that_are_going_to_be_made(tmp_path):
    place = ['folder=${DATA}/noto/test', 'folder-c=${MADE}/corrupted']
    changes = [('validate/benchmarks', 'folder,folder-c'), ('validate/benchmark_dir', place)]
    runs = expand(read_study(write(tmp_path, *changes)))
    check_runs(runs, {'DATA': str(tmp_path)}, ['corrupted'], 'study.yaml')
    with pytest.raises(DebiasError, match=r'noto\.resnet\.plain\.0: --benchmark-dir .*corrupted.: no such folder'):
        check_runs(runs, {'DATA': str(tmp_path)}, ['corupted'], 'study.yaml')


def test_benchmarks_that_are_not_there(tmp_path):
    """They are missed before the first run is trained, and not when it is to be measured."""
    runs = expand(read_study(write(tmp_path, ('validate', {'benchmarks': 'folder-c', 'data_root': '${DATA}'}))))[:1]
    with pytest.raises(DebiasError, match=r'folder-c: give its images by --benchmark-dir folder-c=PATH'):
        check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')
    changes = [('train/num_classes', 1000), ('validate', {'benchmarks': 'imagenet-a', 'data_root': '${DATA}'})]
    runs = expand(read_study(write(tmp_path, *changes)))[:1]
    with pytest.raises(DebiasError, match=r'noto\.resnet\.plain\.0: imagenet-a: no folder .* in --data-root'):
        check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')
    (tmp_path / 'imagenet-a').mkdir()
    check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')


def test_class_folders_that_are_not_those_of_training(study, tmp_path):
    """Three classes are trained, and the test has two: that is said before any training."""
    for name in 'ab':
        (tmp_path / 'noto' / 'test' / name).mkdir(parents=True)
    with pytest.raises(DebiasError, match=r'plain\.0: folder: .* has 2 class folders and the model 3 classes'):
        check_runs(expand(study), {'DATA': str(tmp_path)}, [], 'study.yaml')
    (tmp_path / 'noto' / 'test' / 'c').mkdir()
    check_runs(expand(study), {'DATA': str(tmp_path)}, [], 'study.yaml')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('nmae', 'x'), "unknown key 'nmae'. Did you mean 'name'"),
        (('seeds',), 'lacks seeds'),
        (('name', 'a/b'), 'becomes part of file names'),
        (('methods/a b', {}), "methods: 'a b' becomes part of file names"),
        (('methods/plain', 'debias'), 'methods: plain: expected lines of the form'),
        (('methods/plain', {'label': 'debiased'}), "two have the label 'debiased'"),
        (('methods/double/times', {'epochs': 0}), 'double: times: epochs: expected a factor above 0'),
        (('seeds', [0, 0]), 'expected different numbers'),
        (('seeds', [0, '1']), "expected whole numbers from 0, found '1'"),
        (('seeds', 3), "'seeds': expected a list, found 3"),
        (('baselines', ['plian']), "'plian' is none of methods. Did you mean 'plain'"),
        (('baselines', []), 'name at least one of methods'),
        (('measures', {}), 'name at least one'),
        (('measures/mCE/better', 'less'), "'better' is 'less'; expected one of higher, lower, none"),
        (('measures/mCE', {'col': 'a'}), 'mCE: expected a column of results.csv'),
        (('seeds', [2**32]), 'seeds: --seed is 4294967296; expected 0 to 4294967295'),
        (('baselines', ['plain', 'plain']), "'plain' is named twice"),
        (('data/mean', {}), "data: 'mean' is the name of the mean over data sets"),
        (('checkpoint', 'first'), "'checkpoint': Known: best, last"),
        (('methods/plain', False), 'methods: plain: expected lines of the form "name: value", found False'),
        (('methods/plain', {'label': None}), 'plain: label: expected a text of one line, found None'),
        (('methods/plain', {'label': 'a\nb'}), 'plain: label: expected a text of one line'),
        (('measures', {'a\nb': 'folder_top1'}), 'measures: expected a text of one line'),
        (('methods/double/times', {'epochs': float('inf')}), 'study.yaml: the number Infinity; expected'),
        (('methods', {date(2024, 1, 1): {}}), 'not datetime.date; expected different texts as names'),
        (('methods', {1: {}, '1': {}}), "study.yaml: '1' is given twice; expected different texts as names"),
        (('make', {'test': {'command': 'rm'}}), "'command' is 'rm'; expected one of draw, make-benchmark"),
    ],
)
def test_mistakes_in_the_file(tmp_path, change, message):
    with pytest.raises(DebiasError) as caught:
        read_study(write(tmp_path, change))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('train/epoch', 3), "noto.resnet.plain.0: train.py: unknown key 'epoch'. Did you mean 'epochs'"),
        (('train/batch_size', 'many'), "train.py: 'batch_size': expected int, found 'many'"),
        (('train/seed', 3), "train.py: 'seed' is set by the study itself"),
        (('validate/checkpoint', 'a'), "validate.py: 'checkpoint' is set by the study itself"),
        (('train/model', 'resnet5O'), "unknown model 'resnet5O'"),
        (
            ('methods/debiased/debias_gamma', 2),
            'noto.resnet.debiased.0: --debias-gamma is 2; expected a number in [0, 1]',
        ),
        (('methods/debiased/debias',), '--debias-gamma has no effect without --debias'),
        (('train/data_dir', '${DATEN}'), '${DATEN} stands for nothing; give --set DATEN=VALUE'),
        (('validate/benchmarks', 'fodler'), "unknown benchmark 'fodler'. Did you mean 'folder'"),
        (('validate/benchmarks',), 'name the benchmarks to measure'),
        (('methods/double/times', {'lr': 2}), "double: times: 'lr' is None; set it to a number"),
        (('methods/double/times', {'epochs': 1e308}), "double.0: train.py: 'epochs': expected int, found inf"),
        (('make', {'c': {'command': 'make-benchmark'}}), "make: c: 'kind' is missing"),
        (('make', {'c': {'command': 'make-benchmark', 'kind': 'corupted'}}), 'make: c: argument kind: invalid choice'),
        (('make', {'c': {'command': 'draw', 'img_sice': 3}}), "make: c: draw: unknown key 'img_sice'"),
        (('make', {'c': {'command': 'draw', 'output': 'a'}}), "make: c: draw: 'output' is set by the study itself"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, capsys, change, message):
    path = write(tmp_path, change)
    assert main(['study', str(path), '--output', str(tmp_path / 'out'), '--set', f'DATA={tmp_path}']) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('timm-debias study: error: ')
    assert message in error
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--shard', '3/2'], "--shard '3/2'"),
        (['--jobs', '0'], '--jobs is 0'),
        (['--set', 'DATA'], "--set 'DATA': expected NAME=VALUE"),
        (['--set', 'DATA=a', 'model=b'], '${model} is what the study itself says'),
        (['--set', 'DATA=a', 'DATA=b'], "--set 'DATA=b': DATA is given twice"),
        (['--set', 'MADE=a'], '${MADE} is what the study itself says'),
        (['--report-dir', __file__], 'test_study_config.py is a file; name a folder'),
        (['--list', '--report-only'], '--list and --report-only do not go together'),
        (['--from-results', '--stored', 'a'], 'leave --stored out'),
        (['--report-only', '--shard', '1/2'], 'leave --runs and --shard out'),
        (['--from-results'], 'has no results.csv'),
    ],
)
def test_mistakes_in_the_flags(tmp_path, capsys, words, message):
    assert main(['study', str(write(tmp_path)), '--output', str(tmp_path / 'out'), *words]) == 2
    assert message in capsys.readouterr().err


def test_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / 'out').touch()
    words = ['--output', str(tmp_path / 'out'), '--report-dir', str(tmp_path / 'report'), '--set', f'DATA={tmp_path}']
    assert main(['study', str(write(tmp_path)), *words]) == 2
    assert f'error: --output {tmp_path / "out"}: {tmp_path / "out"} is a file' in capsys.readouterr().err


def test_flags_of_runs_that_were_stored_stay_valid(study, tmp_path):
    """Stored tables name runs by these digits: they change with what is trained or measured, and never else."""
    run = expand(study)[0]
    assert run.flags == 'da8d9ec623a3'
    best = expand(read_study(write(tmp_path, ('checkpoint', 'best'))))[0]
    assert (best.name, best.checkpoint) == (run.name, 'model_best.pth.tar')
    assert best.flags != run.flags
    assert expand(read_study(write(tmp_path, ('checkpoint', 'last'))))[0] == run


@pytest.mark.parametrize('flag', ['pretrained_path', 'initial_checkpoint'])
def test_weights_of_a_run_that_is_not_finished(tmp_path, flag):
    """Its last checkpoint is there after the first epoch."""
    (tmp_path / 'last.pth.tar').touch()
    changes = [('train/pretrained', flag == 'pretrained_path'), (f'train/{flag}', '${DATA}/last.pth.tar')]
    runs = expand(read_study(write(tmp_path, *changes)))[:1]
    check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')
    (tmp_path / 'run.json').write_text('{"status": "started"}')
    with pytest.raises(DebiasError, match=rf"'{flag}': .*last\.pth\.tar is of a run that is not finished"):
        check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')
    (tmp_path / 'run.json').write_text('{"status": "finished", "seconds": {}, "versions": {}}')
    check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')
    (tmp_path / 'run.json').write_text('[]')  # Of another program: no advice to remove a folder with weights.
    with pytest.raises(DebiasError, match=r'lies a run\.json that says nothing of a run; move one of them'):
        check_runs(runs, {'DATA': str(tmp_path)}, [], 'study.yaml')


def test_no_study(tmp_path, capsys):
    assert main(['study', str(tmp_path / 'absent.yaml')]) == 2
    assert 'absent.yaml: no such file' in capsys.readouterr().err
    (tmp_path / 'evil.yaml').write_text('!!python/object/apply:os.system ["true"]')
    assert main(['study', str(tmp_path / 'evil.yaml')]) == 2
    assert 'not a YAML file' in capsys.readouterr().err


def test_list(tmp_path, capsys):
    path = write(tmp_path, ('data',), ('models',))
    run = expand(read_study(path))[0]
    folder = tmp_path / 'out/runs' / run.name
    folder.mkdir(parents=True)
    state = {'train': run.train, 'validate': run.validate, 'status': 'failed'}
    (folder / 'run.json').write_text(json.dumps(state))
    assert main(['study', str(path), '--output', str(tmp_path / 'out'), '--list', '--runs', '*.0']) == 0
    assert capsys.readouterr().out.splitlines() == [
        'plain.0: failed, 4 epochs', 'double.0: missing, 8 epochs', 'debiased.0: missing, 4 epochs', '3 runs, 16 epochs'
    ]  # fmt: skip
    path = write(tmp_path, ('train/epochs', '4'), ('methods/double/times',))
    assert main(['study', str(path), '--output', str(tmp_path / 'elsewhere'), '--list']) == 0
    path = write(tmp_path, ('train/epochs', 'four'), ('methods/double/times',))
    assert main(['study', str(path), '--output', str(tmp_path / 'elsewhere'), '--list']) == 2
    assert "train.py: 'epochs': expected int, found 'four'" in capsys.readouterr().err
