"""Training on folders with images that cannot be read: an error, left out, or others in their place."""

import csv
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
from bad_files import BAD, picture
from processes import forked
from tiny import FLAGS, make_folder
from training_runs import build_images, finished, killed, result, same_runs, train_command

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.data.factory import create_dataset
from timm_debias.machine import Machine
from timm_debias.training.bad_images import MAX_REPLACEMENTS, update_bad_images
from timm_debias.training.data import check_labels
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.seeded_loader import SeededLoader

BAD_NUMBERS = (3, 10)


@pytest.fixture
def folder(tmp_path):
    """24 images of which two cannot be read; the label of each, its class folder, is its number."""
    for number in range(24):
        path = tmp_path / 'data' / 'train' / f'{number:02d}' / 'image.png'
        path.parent.mkdir(parents=True)
        path.write_bytes(b'') if number in BAD_NUMBERS else picture(seed=number).save(path)
    return tmp_path / 'data'


def build(folder, policy, place=(0, 1), batch_size=4, num_classes=24, **options):
    dataset = create_dataset('', str(folder), 'train', 32)
    options = {'num_workers': 0, 'device': torch.device('cpu'), **options}
    loader = timm.data.create_loader(dataset, (3, 16, 16), batch_size, is_training=True, **options)
    rank, world_size = place
    machine = Machine(torch.device('cpu'), rank, world_size, world_size > 1)
    return SeededLoader(loader, 7, machine, on_bad_image=policy, num_classes=num_classes)


def epoch(loader, number, first=0):
    loader.set_position(number, first)
    return [(images.clone(), labels.tolist(), loader.report) for images, labels in loader]


def labels_of(batches):
    return [labels for _, labels, _ in batches]


def good_order(number):
    """What a data set without bad images shows, by the documented order: all labels of an epoch, batch by batch."""
    from timm_debias.training.sampler import EpochSampler

    sampler = EpochSampler(24, 7)
    sampler.set_epoch(number)
    return np.array([key.image for key in sampler]).reshape(6, 4).tolist()


def test_error_names_file_reason_and_ways_out(folder):
    with pytest.raises(DebiasError, match=r'03/image.png \(cannot identify.*|10/image.png \(cannot') as error:
        epoch(build(folder, 'error'), 0)
    assert '--on-bad-image skip' in str(error.value)
    assert '\n' not in str(error.value)


def test_skip_leaves_out_and_changes_nothing_else(folder):
    batches = epoch(build(folder, 'skip'), 1)
    assert labels_of(batches) == [[label for label in batch if label not in BAD_NUMBERS] for batch in good_order(1)]
    for number in BAD_NUMBERS:
        picture(seed=number).save(folder / 'train' / f'{number:02d}' / 'image.png')
    whole = epoch(build(folder, 'skip'), 1)
    for (images, labels, _), (all_images, all_labels, _) in zip(batches, whole, strict=True):
        kept = [place for place, label in enumerate(all_labels) if label not in BAD_NUMBERS]
        assert torch.equal(images, all_images[kept])
        assert len(images) == len(labels)


def test_replace_keeps_batches_whole(folder):
    loader = build(folder, 'replace')
    drawn = set()
    for number in range(3):
        batches = epoch(loader, number)
        assert [len(labels) for labels in labels_of(batches)] == [4] * 6
        order = good_order(number)
        for (_, labels, report), planned in zip(batches, order, strict=True):
            assert [a for a, b in zip(labels, planned, strict=True) if a != b] == [
                int(bad.replaced_by.split(os.sep)[-2]) for bad in report.bad
            ]
            assert not set(labels) & set(BAD_NUMBERS)
            drawn |= {bad.replaced_by for bad in report.bad}
    assert len(drawn) > 2  # Not always the same image.


@pytest.mark.parametrize('policy', ['skip', 'replace'])
@pytest.mark.parametrize('options', [{}, {'num_workers': 2}, {'use_prefetcher': False}], ids=str)
def test_a_function_of_seed_epoch_and_image(folder, policy, options):
    """Any batch alone, and any number of workers, against the whole epochs of one loader."""
    plain = build(folder, policy)
    whole = {number: epoch(plain, number) for number in (0, 2)}
    for number, first in ((2, 3), (0, 0)):
        batches = epoch(build(folder, policy, **options), number, first)
        assert labels_of(batches) == labels_of(whole[number])[first:]
        if options.get('use_prefetcher', True):
            assert all(torch.equal(a, b) for (a, *_), (b, *_) in zip(batches, whole[number][first:], strict=True))
        assert [report for *_, report in batches] == [report for *_, report in whole[number][first:]]


def test_processes_share_what_one_would_show(folder):
    for policy in ('skip', 'replace'):
        alone = labels_of(epoch(build(folder, policy, batch_size=8), 0))
        pairs = [labels_of(epoch(build(folder, policy, (rank, 2)), 0)) for rank in range(2)]
        assert [sorted(a + b) for a, b in zip(*pairs, strict=True)] == [sorted(batch) for batch in alone]


def test_skip_leaves_two(folder):
    for number in range(24):
        if number % 6:
            (folder / 'train' / f'{number:02d}' / 'image.png').write_bytes(b'')
    with pytest.raises(DebiasError, match=r'[34] of 4 images of a batch are unreadable.*2 at least.*mend them'):
        epoch(build(folder, 'skip'), 0)


def test_replace_gives_up(folder):
    for path in (folder / 'train').glob('*/image.png'):
        path.write_bytes(b'')
    with pytest.raises(DebiasError, match=f'and so are {MAX_REPLACEMENTS} others that were drawn in its place'):
        epoch(build(folder, 'replace'), 0)


@pytest.mark.parametrize('policy', ['error', 'skip', 'replace'])
def test_labels_of_no_class_are_always_errors(folder, policy):
    """Whatever the policy, for they say that data and model do not fit."""
    for number in BAD_NUMBERS:
        picture(seed=number).save(folder / 'train' / f'{number:02d}' / 'image.png')
    with pytest.raises(DebiasError, match=r'23/image.png \(label 23, and the model has the classes 0 to 22\)'):
        epoch(build(folder, policy, num_classes=23), 0)


def test_labels_of_a_class_map_are_checked_before(folder, tmp_path):
    (tmp_path / 'classes.txt').write_text('\n'.join(f'{number:02d}' for number in range(24)))
    dataset = create_dataset('', str(folder), 'train', 32)
    dataset.reader.samples[5] = (dataset.reader.samples[5][0], 31)
    config = config_from_args(build_parser().parse_args(['-b', '4']))
    with pytest.raises(DebiasError, match=r'05/image.png: label 31.*--num-classes and --class-map'):
        check_labels(config, dataset, 24, Machine(torch.device('cpu')))


def test_every_kind_of_bad_file_in_training(tmp_path):
    """One of each beside twelve good ones, in a run of two epochs; the log names each once an epoch."""
    root = make_folder(tmp_path / 'data')
    for number, (write, _) in enumerate(BAD.values()):
        path = root / 'train' / 'red' / f'bad-{number}.png'
        if write is not BAD['folder'][0]:
            write(path)
    argv = ['train', *FLAGS, '--data-dir', str(root), '--output', str(tmp_path), '--experiment', 'run', '--debias']
    assert main([*argv, '--on-bad-image', 'replace']) == 0
    with (tmp_path / 'run' / 'bad_images.csv').open() as file:
        rows = list(csv.DictReader(file))
    written = sorted(str(path) for path in (root / 'train' / 'red').glob('bad-*'))
    for number in '01':
        # 20 images make 5 batches of 4, so that all are shown.
        assert [row['file'] for row in rows if row['epoch'] == number] == written
    assert all(row['reason'] and row['split'] == 'train' for row in rows)
    assert all('bad-' not in row['replaced_by'] for row in rows)


@pytest.fixture
def spoilt(tmp_path):
    """The folder of the runs that are killed, with bad images to train on and to validate."""
    build_images(tmp_path / 'images')
    for path in ('train/a/3.png', 'train/b/10.png', 'train/c/20.png', 'val/a/6.png'):
        (tmp_path / 'images' / path).write_bytes(b'')
    return tmp_path / 'images'


@pytest.mark.parametrize('policy', ['skip', 'replace'])
def test_killed_and_gone_on_with(spoilt, tmp_path, policy):
    """The same bits, counts and names as if it had not been killed."""
    flags = ['--debias', '--on-bad-image', policy, '-j', '1' if policy == 'skip' else '0']
    whole = finished(train_command(spoilt, tmp_path / 'whole', *flags), tmp_path / 'log')
    argv = train_command(spoilt, tmp_path / 'killed', *flags, '--resume', 'auto')
    killed(argv, 7, tmp_path / 'log-killed')
    assert result(finished(argv, tmp_path / 'log-resumed')) == result(whole)
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')
    names = [(tmp_path / name / 'run' / 'bad_images.csv').read_text() for name in ('whole', 'killed')]
    assert names[0] == names[1]
    summary = list(csv.DictReader((tmp_path / 'whole' / 'run' / 'summary.csv').open()))
    rows = list(csv.DictReader(io.StringIO(names[0])))
    for row in summary:
        trained = [bad for bad in rows if bad['epoch'] == row['epoch'] and bad['split'] == 'train']
        assert int(row['train_bad_images']) == len(trained) <= 3
        assert row['eval_bad_images'] == '1'
    assert {bad['file'] for bad in rows} >= {str(spoilt / 'train/a/3.png'), str(spoilt / 'val/a/6.png')}
    assert all(bool(row['replaced_by']) == (policy == 'replace' and row['split'] == 'train') for row in rows)


def test_two_processes_count_together(spoilt, tmp_path):
    argv = train_command(spoilt, tmp_path, '-b', '2', '--on-bad-image', 'replace', '--epochs', '1')
    finished(argv, tmp_path / 'log', world_size=2)
    rows = list(csv.DictReader((tmp_path / 'run' / 'bad_images.csv').open()))
    assert [row['split'] for row in rows].count('validation') == 1
    (summary,) = csv.DictReader((tmp_path / 'run' / 'summary.csv').open())
    assert int(summary['train_bad_images']) == len(rows) - 1
    assert summary['eval_bad_images'] == '1'


def test_without_the_flag_training_does_not_begin(spoilt, tmp_path, capsys):
    assert main(train_command(spoilt, tmp_path)) == 2
    assert 'unreadable images' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_an_image_that_spoils_in_training_stops_it(spoilt, tmp_path):
    """Also where it was intact at the start: one line, no traceback."""
    shutil.rmtree(spoilt)
    build_images(spoilt)

    def run() -> int:
        from timm_debias.training import train

        original = train._start

        def spoil(*args):
            (spoilt / 'train/a/3.png').write_bytes(b'')
            return original(*args)

        train._start = spoil
        return main(train_command(spoilt, tmp_path, '-j', '1'))

    ended = forked(run, tmp_path / 'log')
    assert ended.code == 2
    assert 'a/3.png (cannot identify image file' in ended.err.splitlines()[-1]
    assert 'Traceback' not in ended.err


@pytest.mark.parametrize('policy', ['skip', 'replace', 'error'])
def test_styles_of_auto_augment_are_those_of_readable_images(tmp_path, capsys, monkeypatch, policy):
    root = make_folder(tmp_path / 'data')
    bad = root / 'train' / 'blue' / '1.png'
    bad.write_bytes(b'')
    # A folder above 20,000 images is decoded in part, so that one may be left where they are an error.
    monkeypatch.setattr('timm_debias.training.data.check_image_folder', lambda *_, **__: None)
    banks = []
    monkeypatch.setattr('timm_debias.training.data.register', banks.append)
    monkeypatch.setattr('timm_debias.training.train.build_train_loader', stop)
    argv = ['train', *FLAGS, '--data-dir', str(root), '--output', str(tmp_path), '--aa', 'rand-m5-tstylize']
    if policy == 'error':
        assert main([*argv, '--on-bad-image', policy]) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert f'unreadable image {bad} (cannot identify' in message
        assert '--on-bad-image skip' in message
    else:
        with pytest.raises(Stop):
            main([*argv, '--on-bad-image', policy])
        assert len(banks[0]) == 11


class Stop(Exception):  # noqa: N818
    """Ends a run where a test has seen enough."""


def stop(*_):
    raise Stop


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        (['--on-bad-image', 'skip', '--mixup', '0.2'], 'mix pairs: --on-bad-image replace'),
        (
            ['--on-bad-image', 'skip', '--debias', '--debias-global-partners'],
            'needs equal ones: --on-bad-image replace',
        ),
        (['--on-bad-image', 'drop'], 'invalid choice'),
        (
            ['--on-bad-image', 'skip', '--naflex-loader', '--model', 'naflexvit_base_patch16_gap'],
            'readers of their own',
        ),
    ],
)
def test_refused(tmp_path, capsys, flags, expected):
    assert main(['train', *FLAGS, '--data-dir', str(make_folder(tmp_path)), '--output', str(tmp_path), *flags]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_log_holds_no_formula(tmp_path):
    path = tmp_path / 'bad_images.csv'
    for epoch in range(2):
        update_bad_images(path, epoch, 'train', [[epoch, 'train', '=1+1/3.png', 'empty', '-b.png']])
    lines = [f"{epoch},train,'=1+1/3.png,empty,'-b.png\n" for epoch in range(2)]
    assert path.read_text() == ''.join(['epoch,split,file,reason,replaced_by\n', *lines])


def test_log_takes_names_that_are_not_utf8(tmp_path):
    path = tmp_path / 'bad_images.csv'
    name = os.fsdecode(b'/data/\xff,"\n.png')
    update_bad_images(path, 0, 'train', [])
    assert not path.exists()
    update_bad_images(path, 0, 'train', [[0, 'train', name, 'empty', '']])
    update_bad_images(path, 0, 'validation', [[0, 'validation', 'b', 'empty', '']])
    update_bad_images(path, 1, 'train', [[1, 'train', 'c', 'empty', 'd']])
    update_bad_images(path, 1, 'train', [[1, 'train', 'e', 'empty', 'f']])  # The epoch is trained again.
    with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        rows = [tuple(row[:3]) for row in csv.reader(file)]
    expected = [('0', 'train', name), ('0', 'validation', 'b'), ('1', 'train', 'e')]
    assert rows == [('epoch', 'split', 'file'), *expected]
    update_bad_images(path, 0, 'train', [])
    assert path.read_text() == 'epoch,split,file,reason,replaced_by\n'


def test_names_that_are_not_utf8_from_end_to_end(training_images, tmp_path):
    """In the data's path, in checkpoints within an epoch, in the log."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b'/d\xe4ta'))
    shutil.copytree(training_images, root)
    (root / 'train' / 'a' / os.fsdecode(b'\xff.png')).write_bytes(b'')
    (root / 'val' / 'a' / os.fsdecode(b'\xfe.png')).write_bytes(b'')
    argv = train_command(root, tmp_path, '--on-bad-image', 'replace', '--epochs', '1', '--resume', 'auto')
    killed(argv, 3, tmp_path / 'log-killed')
    finished(argv, tmp_path / 'log')
    log = (tmp_path / 'run' / 'bad_images.csv').read_bytes()
    assert b'd\xe4ta/train/a/\xff.png' in log
    assert b'd\xe4ta/val/a/\xfe.png' in log


class Stream(torch.utils.data.IterableDataset):
    """A stream of small images with the labels 0, 1, 2, …"""

    transform = None

    def __iter__(self):
        return iter([(np.zeros((3, 8, 8), dtype=np.uint8), label) for label in range(8)])

    def __len__(self):
        return 8


def test_labels_of_no_class_in_a_stream():
    """Also there, where an image has no name."""
    options = dict(batch_size=2, collate_fn=timm.data.loader.fast_collate)
    loader = SeededLoader(torch.utils.data.DataLoader(Stream(), **options), 7, Machine(torch.device('cpu')))
    assert labels_of(epoch(loader, 0)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    inner = torch.utils.data.DataLoader(Stream(), **options)
    with pytest.raises(DebiasError, match=r'sample 5 of its part of the stream \(label 5, and .* classes 0 to 4\)'):
        epoch(SeededLoader(inner, 7, Machine(torch.device('cpu')), num_classes=5), 0)
