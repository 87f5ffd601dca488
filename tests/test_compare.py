"""`timm-debias compare` on results that were measured, and on results whose right images are known."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from miniatures import SUITE_FLAGS

from timm_debias.cli import main
from timm_debias.compare import compare, format_comparison, format_p
from timm_debias.metrics import mcnemar, wilson_interval
from timm_debias.validation.bits import pack

RIGHT_A = np.array([True] * 6 + [False] * 4)
RIGHT_B = np.array([False] * 2 + [True] * 5 + [False] * 3)
METRICS = {'top1': 60.0, 'mce': None, 'errors': {}, 'shape_bias': None, 'categories': {}, 'published_shape_bias': {}}


def part(right, fingerprint='f' * 64, targets='t' * 64, skipped=(), state=None):
    identity = {'images': len(right) + len(skipped), 'fingerprint': fingerprint, 'targets': targets, 'protocol': 'p'}
    result = {'state': state or {}, 'images': len(right), 'skipped': list(skipped), 'right': pack(right)}
    return {'identity': identity, 'result': result}


def write(folder, parts, **changes):
    """Write a results folder with the given parts."""
    benchmarks = {}
    for name, contents in parts.items():
        path = folder / 'parts' / f'{name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents))
        entry = dict(fingerprint='f' * 64, subset=None, partial=False, skipped=contents['result']['skipped'])
        entry |= {'images': contents['result']['images'], 'headline': {}, 'metrics': METRICS, 'notes': []}
        benchmarks[name.split('/')[0]] = entry | {'protocol': 'cropped'} | changes
    results = {'model': 'resnet50', 'weights': folder.name, 'benchmarks': benchmarks}
    results |= {'param_count': 25.56, 'img_size': 224, 'absent': {}}
    (folder / 'results.json').write_text(json.dumps(results))
    return folder


@pytest.fixture
def pair(tmp_path):
    def build(a, b, changes_a=None, changes_b=None):
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
        return write(tmp_path / 'a', a, **changes_a or {}), write(tmp_path / 'b', b, **changes_b or {})

    return build


def error(capsys, *argv) -> str:
    capsys.readouterr()
    assert main(['compare', *map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('timm-debias compare: error: ')
    return line


def test_one_part(pair):
    a, b = pair({'imagenet': part(RIGHT_A)}, {'imagenet': part(RIGHT_B)})
    (row,) = compare(a, b)['rows']
    assert (row['images'], row['versions'], row['mark']) == (10, 1, '')
    assert (row['a'], row['b'], row['difference']) == (60, 50, -10)
    assert (row['only_a'], row['only_b'], row['p']) == (2, 1, mcnemar(2, 1))
    assert row['a_interval'] == pytest.approx([100 * value for value in wilson_interval(6, 10)])
    assert row['b_interval'] == pytest.approx([100 * value for value in wilson_interval(5, 10)])


def test_severities_are_versions_of_one_image(pair):
    names = [f'imagenet-c/fog/{severity}' for severity in range(1, 6)]
    steady = {name: part(RIGHT_A) for name in names}
    a, b = pair(steady, {name: part(RIGHT_B) for name in names})
    fog, everything = compare(a, b)['rows']
    # Five times the same images prove no more than once.
    assert (fog['only_a'], fog['only_b'], fog['p']) == (2, 1, mcnemar(2, 1))
    assert fog['a_interval'] == pytest.approx([100 * value for value in wilson_interval(6, 10)])
    assert (fog['images'], fog['versions']) == (10, 5)
    assert (fog['name'], everything['name']) == ('imagenet-c/fog', 'imagenet-c, 1 corruptions')
    changed = steady | {names[4]: part(np.array([True] * 10))}
    a, b = pair(steady, changed)
    fog, _ = compare(a, b)['rows']
    assert (fog['only_a'], fog['only_b'], fog['p']) == (0, 4, mcnemar(0, 4))
    assert fog['difference'] == pytest.approx(8)


def test_all_corruptions(pair):
    names = ('imagenet-c/spatter/1', 'imagenet-c/fog/1', 'imagenet-c/snow/1')
    a, b = pair({name: part(RIGHT_A) for name in names}, {name: part(RIGHT_B) for name in names})
    assert [row['name'] for row in compare(a, b)['rows']] == [
        'imagenet-c/snow', 'imagenet-c/fog', 'imagenet-c/spatter', 'imagenet-c, 3 corruptions'
    ]  # fmt: skip


def test_versions_that_do_not_match_are_not_tested(pair):
    parts = {'imagenet-c/fog/1': part(RIGHT_A), 'imagenet-c/fog/2': part(RIGHT_A[:8], targets='u' * 64)}
    row = compare(*pair(parts, parts))['rows'][0]
    assert row['a'] == pytest.approx(100 * 12 / 18)
    assert row['p'] is row['only_a'] is row['a_interval'] is None
    assert ' – | – | – |' in format_comparison(compare(*pair(parts, parts)))


def test_epsilons_are_in_order_and_need_not_be_the_same(pair):
    parts = {f'pgd/eps{epsilon}': part(RIGHT_A) for epsilon in ('16', '4', '0.5')}
    a, b = pair(parts, parts | {'pgd/eps1': part(RIGHT_A)})
    assert [row['name'] for row in compare(a, b)['rows']] == ['pgd/eps0.5', 'pgd/eps4', 'pgd/eps16']


def test_no_common_epsilon(pair, capsys):
    folders = pair({'pgd/eps2': part(RIGHT_A)}, {'pgd/eps4': part(RIGHT_A)})
    assert 'nothing to compare: pgd: not compared, A has pgd/eps2 and B has pgd/eps4' in error(capsys, *folders)


def test_marks_and_notes(pair):
    state = {'images': [10], 'shape': [6], 'texture': [0]}
    parts = {'cue-conflict': part(RIGHT_A, state=state)}
    changes = {'partial': True, 'subset': 'subset of 5,000'}
    comparison = compare(*pair(parts, parts, changes, changes | {'protocol': 'squashed'}))
    text = format_comparison(comparison)
    assert '| cue-conflict, by shape (subset of 5,000, partial) | 10 | 60.00 [31.27, 83.18] |' in text
    assert 'A: cropped. B: squashed' in text
    assert 'versions' not in text


def test_p_in_words():
    assert [format_p(p) for p in (None, 1.0, 0.0123, 1e-4, 9e-5, 0.0)] == [
        '–', '1', '0.012', '0.0001', '< 0.0001', '< 0.0001'
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'fingerprint': 'e' * 64}, ('not measured on the same images', 'eeee', 'ffff')),
        ({'subset': 'list of 5,000'}, ('all images', 'list of 5,000', '--benchmarks')),
    ],
)
def test_other_data_is_refused(pair, capsys, changes, words):
    both = {'imagenet': part(RIGHT_A)}
    message = error(capsys, *pair(both, both, None, changes))
    assert 'imagenet: ' in message
    for word in words:
        assert word in message


def test_skipped_images(pair, capsys):
    a, b = (part(RIGHT_A, skipped=[path]) for path in ('/here/n01/x.png', '/there/n01/x.png'))
    assert compare(*pair({'imagenet': a}, {'imagenet': b}))['rows'][0]['images'] == 10
    other = part(RIGHT_A, skipped=['/here/n02/x.png'])
    message = error(capsys, *pair({'imagenet': a}, {'imagenet': other}))
    assert 'imagenet: A skipped 1 unreadable images and B 1, not the same ones' in message


def test_other_labels_are_refused(pair, capsys):
    folders = pair({'imagenet-real': part(RIGHT_A)}, {'imagenet-real': part(RIGHT_A, targets='s' * 64)})
    assert 'imagenet-real: A and B were measured with other labels' in error(capsys, *folders)


def test_folders_without_results_are_refused(pair, tmp_path, capsys):
    a, b = pair({'imagenet': part(RIGHT_A)}, {'imagenet-a': part(RIGHT_A)})
    assert 'no benchmark was measured for both' in error(capsys, a, b)
    assert "'imagnet' was not measured for both. Did you mean 'imagenet'?" in error(
        capsys, a, a, '--benchmarks', 'imagnet'
    )
    assert 'no such folder' in error(capsys, a, tmp_path / 'nowhere')
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'is no results folder' in error(capsys, empty, a)
    (empty / 'run.json').write_text('{}')
    assert 'interrupted run' in error(capsys, empty, a)
    (empty / 'results.json').write_text('{"a": 1}')
    assert 'not a result of validate.py --benchmarks' in error(capsys, a, empty)


def test_damaged_bits_and_missing_ones(pair, capsys):
    damaged, missing = part(RIGHT_A), part(RIGHT_A)
    damaged['result']['right'] = 'ff'
    missing['result']['right'] = None
    assert 'imagenet: what is stored of its images is damaged' in error(capsys, *pair(*[{'imagenet': damaged}] * 2))
    assert 'nothing to compare' in error(capsys, *pair(*[{'imagenet-o/in': missing}] * 2))
    both = {'imagenet-o/in': missing, 'imagenet': part(RIGHT_A)}
    comparison = compare(*pair(both, both))
    assert [row['name'] for row in comparison['rows']] == ['imagenet']
    assert comparison['notes'] == ['imagenet-o: not compared, it was not stored which images are right']


def test_output_that_cannot_be_written(pair, tmp_path, capsys):
    both = {'imagenet': part(RIGHT_A)}
    a, b = pair(both, both)
    (tmp_path / 'file').touch()
    assert '--output' in error(capsys, a, b, '--output', tmp_path / 'file' / 'x.json')


def test_measured_results(suite, miniatures, tmp_path, capsys):
    torch.manual_seed(1)
    other = tmp_path / 'other.pth'
    torch.save(timm.create_model('test_resnet').state_dict(), other)
    names = 'imagenet,imagenet-a,imagenet-c,imagenet-o,cue-conflict,fgsm'
    flags = ['--benchmarks', names, '--results-dir']
    assert suite(*flags, tmp_path / 'a') == 0
    rest = ['--data-root', miniatures, '--checkpoint', other, *flags, tmp_path / 'b']
    assert main(['validate', *map(str, [*SUITE_FLAGS, *rest])]) == 0
    capsys.readouterr()
    assert main(['compare', str(tmp_path / 'a'), str(tmp_path / 'b'), '--output', str(tmp_path / 'c.json')]) == 0
    printed = capsys.readouterr().out
    assert '| benchmark | images | A | B | B − A | only A | only B | p |' in printed
    comparison = json.loads((tmp_path / 'c.json').read_text())
    assert format_comparison(comparison) == printed
    rows = {row['name']: row for row in comparison['rows']}
    assert len(rows) == 5 - 1 + 20
    for side in 'ab':
        entries = json.loads((tmp_path / side / 'results.json').read_text())['benchmarks']
        metrics = {name: entry['metrics'] for name, entry in entries.items()}
        for name in ('imagenet', 'imagenet-a'):
            assert rows[name][side] == pytest.approx(metrics[name]['top1'])
            assert rows[name][f'{side}_interval'] == pytest.approx(metrics[name]['top1_interval'])
        assert rows['fgsm/eps16'][side] == pytest.approx(metrics['fgsm']['curve'][0]['top1'])
        assert rows['cue-conflict, by shape'][side] == pytest.approx(metrics['cue-conflict']['shape'])
        errors = metrics['imagenet-c']['errors']
        fog = sum(errors['fog'][str(severity)]['error'] for severity in range(1, 6)) / 5
        assert rows['imagenet-c/fog'][side] == pytest.approx(100 - fog)
        overall = rows['imagenet-c, 19 corruptions'][side]
        assert overall == pytest.approx(100 - metrics['imagenet-c']['reference_mean_error_19'])
    assert rows['imagenet']['a'] > rows['imagenet']['b']
    assert any('imagenet-o: not compared' in note for note in comparison['notes'])
