"""What timm's less common validation flags do, on a folder of small pictures."""

import csv
import json
from typing import get_type_hints

import pytest
import timm
import torch
from tiny import make_folder

from timm_debias.cli import main
from timm_debias.flags import config_from
from timm_debias.validation import main as main_module
from timm_debias.validation.config import ValidateConfig
from timm_debias.validation.main import build_parser
from timm_debias.validation.model import build_model, prepare_model

FLAGS = ['--model', 'test_resnet', '--num-classes', '3', '--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Six images of three classes, and two checkpoints of random models."""
    root = make_folder(tmp_path_factory.mktemp('data') / 'data')
    for seed in range(2):
        torch.manual_seed(seed)
        model = timm.create_model('test_resnet', num_classes=3)
        torch.nn.init.normal_(model.fc.weight)
        (root / 'models').mkdir(exist_ok=True)
        torch.save(model.state_dict(), root / 'models' / f'{seed}.pth')
    return root


def run(data, *argv, code=0, checkpoint='models/0.pth'):
    arguments = ['--data-dir', data, *FLAGS, '--checkpoint', data / checkpoint, *argv]
    assert main(['validate', *map(str, arguments)]) == code


def result(capsys):
    return json.loads(capsys.readouterr().out.split('--result\n')[1])


def logits_and_targets(data, number=0, size=32):
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(data / 'models' / f'{number}.pth'))
    config = timm.data.resolve_data_config({'img_size': size}, model=model)
    dataset = timm.data.create_dataset('', root=str(data), split='validation')
    dataset.transform = timm.data.create_transform(**config)
    with torch.no_grad():
        logits = model.eval()(torch.stack([image for image, _ in dataset]))
    return logits, torch.tensor([label for _, label in dataset])


def accuracy(decided, targets) -> float:
    return 100 * (decided == targets).float().mean().item()


@pytest.mark.filterwarnings('ignore:.*torch.jit.*')
@pytest.mark.parametrize('flags', [['--torchscript', '--fuser', 'te'], ['--aot-autograd']], ids=str)
def test_compilers_compute_the_same(data, flags):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = []
    for argv in ([], flags):
        args = build_parser().parse_args([*FLAGS, '--checkpoint', str(data / 'models' / '0.pth'), *argv])
        config = ValidateConfig(*(config_from(part, args) for part in get_type_hints(ValidateConfig).values()))
        model = prepare_model(config, build_model(config).eval())
        with torch.no_grad():
            logits.append(model(images))
    torch.testing.assert_close(logits[1], logits[0])
    run(data, *flags, '-b', 3)


def test_batches_of_one_size_for_a_compiler(data, capsys):
    run(data, '--aot-autograd', code=2)
    assert '6 images are no multiple of -b 4' in capsys.readouterr().err


def test_some_of_the_classes(data, capsys, tmp_path):
    (tmp_path / 'labels.txt').write_text('0\n2\n1\n')
    run(data, '--valid-labels', tmp_path / 'labels.txt')
    logits, targets = logits_and_targets(data)
    decided = logits[:, [0, 2, 1]].argmax(dim=1)
    assert result(capsys)['top1'] == pytest.approx(accuracy(decided, targets), abs=1e-3)
    (tmp_path / 'labels.txt').write_text('0\n2\n')
    run(data, '--valid-labels', tmp_path / 'labels.txt', code=2)
    assert '3 classes and the model 2' in capsys.readouterr().err


def test_precision_and_recall_are_in_the_row(data, capsys, tmp_path):
    run(data, '--metrics-avg', 'micro', '--results-file', tmp_path / 'a.csv')
    row = result(capsys)
    assert row['micro_precision'] == row['micro_recall'] == row['micro_f1_score'] == row['top1']
    assert float(next(csv.DictReader((tmp_path / 'a.csv').open()))['micro_recall']) == row['top1']


def test_pooling_of_larger_images(data, capsys):
    """Logits of every window of the size of training, averaged and maximised; the crop takes the whole image."""
    size = 2 * timm.create_model('test_resnet').default_cfg['input_size'][-1]
    run(data, '--img-size', size, '--test-pool')
    row = result(capsys)
    assert (row['crop_pct'], row['img_size']) == (1.0, size)
    run(data, '--test-pool')
    assert result(capsys)['crop_pct'] == 0.95


def test_a_folder_of_checkpoints(data, capsys, tmp_path):
    table = tmp_path / 'all.csv'
    run(data, '--results-file', table, checkpoint='models')
    rows = result(capsys)
    measured = [logits_and_targets(data, number) for number in range(2)]
    top1 = [accuracy(logits.argmax(dim=1), targets) for logits, targets in measured]
    assert [row['top1'] for row in rows] == pytest.approx(sorted(top1, reverse=True), abs=1e-3)
    assert {row['checkpoint'] for row in rows} == {str(data / 'models' / f'{number}.pth') for number in range(2)}
    assert len(list(csv.DictReader(table.open()))) == 2


def test_a_model_that_raises_does_not_end_the_run(data, capsys, monkeypatch):
    evaluate = main_module.evaluate

    def raise_once(*args, **options):
        monkeypatch.setattr(main_module, 'evaluate', evaluate)
        raise AssertionError('an assertion of model code')

    monkeypatch.setattr(main_module, 'evaluate', raise_once)
    run(data, code=1, checkpoint='models')
    output = capsys.readouterr()
    assert len(json.loads(output.out.split('--result\n')[1])) == 1
    assert 'an assertion of model code' in output.err
    assert '1 of 2 models failed' in output.err


def test_a_file_of_names(data, capsys, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text(f'test_resnet,{data / "models" / "1.pth"}\nno_such_model\n')
    arguments = ['--data-dir', data, *FLAGS, '--model', names]
    assert main(['validate', *map(str, arguments)]) == 1
    output = capsys.readouterr()
    assert [row['model'] for row in json.loads(output.out.split('--result\n')[1])] == ['test_resnet']
    assert output.err.strip().splitlines()[-1] == '1 of 2 models failed: no_such_model'


@pytest.mark.parametrize(
    ('argv', 'parts'),
    [
        (['--torchscript', '--torchcompile'], ['--torchscript', '--torchcompile']),
        (['--fuser', 'te'], ['--fuser', '--torchscript']),
        (['--torchscript', '--fuser', 'nvfuser'], ['--fuser nvfuser']),
        (['--num-gpu', '99'], ['--num-gpu is 99']),
        (['--num-gpu', '0'], ['--num-gpu is 0']),
        (['--real-labels', 'nowhere.json'], ["--real-labels 'nowhere.json'", 'no such file']),
        (['--valid-labels', 'nowhere.txt'], ["--valid-labels 'nowhere.txt'", 'no such file']),
        (['--real-labels', __file__], ['--real-labels', 'ImageNet']),
        (['--naflex-loader'], ['--naflex-loader needs a model that takes patches']),
        (['--naflex-loader', '--no-prefetcher'], ['--no-prefetcher', '--naflex-loader']),
        (['--naflex-loader', '--naflex-max-seq-len', '0'], ['--naflex-max-seq-len is 0']),
        (['--amp', '--model-dtype', 'bfloat16'], ['--amp', '--model-dtype bfloat16']),
        (['--model', 'resnet_no_such*'], ['one model', '--checkpoint']),
        (['--model', 'resnet_no_such*', '--checkpoint', ''], ['--model resnet_no_such*']),
    ],
    ids=lambda value: ' '.join(value) if value[0].startswith('--') else '',
)
def test_mistakes(data, capsys, argv, parts):
    arguments = ['--data-dir', data, *FLAGS, '--checkpoint', data / 'models' / '0.pth', *argv]
    assert main(['validate', *map(str, arguments)]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(part in message for part in parts), message


def test_preprocessing_by_tensorflow_without_it(data, capsys, monkeypatch):
    import importlib

    find = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'tensorflow' else find(name))
    run(data, '--tf-preprocessing', code=2)
    assert 'pip install tensorflow' in capsys.readouterr().err


@pytest.mark.parametrize(
    'argv',
    [['--real-labels', __file__], ['--valid-labels', __file__], ['--metrics-avg', 'macro'], ['--test-pool'],
     ['--torchscript'], ['--aot-autograd'], ['--naflex-loader']],
    ids=lambda argv: argv[0],
)  # fmt: skip
def test_not_with_benchmarks(capsys, argv):
    assert main(['validate', *FLAGS, '--benchmarks', 'imagenet', *argv]) == 2
    assert f'{argv[0]} is for one data set of your own: ' in capsys.readouterr().err
