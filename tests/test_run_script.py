"""`timm-debias run`: a script with the imports and calls of timm's train.py, debiasing plugged in."""

import dataclasses
import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from tiny import FLAGS, make_folder

from timm_debias import ShapeTextureMix, create_debias_task, run_script
from timm_debias.cli import main
from timm_debias.task import DebiasTask
from timm_debias.training.config import DebiasConfig

DOCUMENT = Path(__file__).parents[1] / 'docs' / 'timm_scripts.md'
SCRIPT = '''
"""A small training script of timm's kind: the same imports, the same calls in the same order, names as it has them."""
import argparse
import json
import os

import torch
import yaml
from timm import utils
from timm.data import FastCollateMixup, Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import ClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint

import sibling

config_parser = parser = argparse.ArgumentParser(description='Training Config', add_help=False)
parser.add_argument('-c', '--config', default='', type=str)
parser = argparse.ArgumentParser(description='PyTorch ImageNet Training')
for name, default in dict(
    data_dir='', train_split='train', val_split='validation', model='resnet50', resume='', output='', experiment='',
    opt='sgd', sched='cosine', device='cuda', aa=None, loss=None,
).items():
    parser.add_argument('--' + name.replace('_', '-'), default=default)
for name, default in dict(
    num_classes=None, img_size=None, batch_size=128, workers=4, epochs=300, warmup_epochs=5, seed=42, log_interval=50,
    grad_accum_steps=1, aug_splits=0, in_chans=None,
).items():
    short = dict(batch_size=['-b'], workers=['-j']).get(name, [])
    parser.add_argument(*short, '--' + name.replace('_', '-'), type=int, default=default)
for name, default in dict(lr=0.1, momentum=0.9, weight_decay=2e-5, smoothing=0.1, mixup=0.0, cutmix=0.0, reprob=0.0,
                          model_ema_decay=0.9998).items():
    parser.add_argument('--' + name.replace('_', '-'), type=float, default=default)
parser.add_argument('--mean', type=float, nargs='+', default=None)
parser.add_argument('--std', type=float, nargs='+', default=None)
for name in ('no_prefetcher', 'model_ema', 'bce_loss', 'torchscript', 'naflex_loader'):
    parser.add_argument('--' + name.replace('_', '-'), action='store_true', default=False)


def _parse_args():
    args_config, remaining = config_parser.parse_known_args()
    if args_config.config:
        with open(args_config.config) as f:
            parser.set_defaults(**yaml.safe_load(f))
    args = parser.parse_args(remaining)
    return args, yaml.safe_dump(args.__dict__, default_flow_style=False)


def main():
    utils.setup_default_logging()
    args, args_text = _parse_args()
    args.prefetcher = not args.no_prefetcher
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)
    model = create_model(args.model, num_classes=args.num_classes, drop_rate=0.0)
    data_config = resolve_data_config(vars(args), model=model, verbose=False)
    model.to(device=device)
    loaders = {}
    for split, training in ((args.train_split, True), (args.val_split, False)):
        dataset = create_dataset('', root=args.data_dir, split=split, is_training=training, batch_size=args.batch_size)
        augment = dict(scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3], grayscale_prob=None, gaussian_blur_prob=None,
                       interpolation='random') if training else dict(interpolation=data_config['interpolation'],
                                                                    crop_pct=data_config['crop_pct'])
        loaders[training] = create_loader(
            dataset, input_size=data_config['input_size'], batch_size=args.batch_size, is_training=training,
            mean=data_config['mean'], std=data_config['std'], num_workers=args.workers, device=device,
            use_prefetcher=args.prefetcher, **augment)
    loss = BinaryCrossEntropy(smoothing=args.smoothing) if args.bce_loss else LabelSmoothingCrossEntropy(args.smoothing)
    task = ClassificationTask(model=model, criterion=loss.to(device), device=device, dtype=None, verbose=True)
    model = task.get_trainable_module()
    eval_model = task.get_eval_model()
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    start = resume_task_checkpoint(task, args.resume, optimizer=optimizer) if args.resume else 0
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay)
    output_dir = utils.get_outdir(args.output, args.experiment)
    saver = utils.CheckpointSaver(model=model, optimizer=optimizer, args=args, checkpoint_dir=output_dir,
                                  recovery_dir=output_dir, max_history=10, task=task)
    with open(os.path.join(output_dir, 'args.yaml'), 'w') as f:
        f.write(args_text)
    schedule, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=len(loaders[True]))
    if start:
        schedule.step(start)
    results = []
    for epoch in range(start, epochs):
        model.train()
        optimizer.zero_grad()
        for input, target in loaders[True]:
            if not args.prefetcher:
                input, target = input.to(device), target.to(device)
            loss = task(input, target)['loss']
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            task.update_ema()
        eval_model.eval()
        right = count = 0
        with torch.inference_mode():
            for input, target in loaders[False]:
                right += (eval_model(input.to(device)).argmax(1) == target.to(device)).sum().item()
                count += len(target)
        saver.save_checkpoint(epoch, metric=right / count)
        schedule.step(epoch + 1, right / count)
        results.append({'epoch': epoch, 'loss': loss.item(), 'sibling': sibling.NAME})
    print(f'--result\\n{json.dumps(results)}')


if __name__ == '__main__':
    raise SystemExit('loaded as a module, not run')
'''


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setattr('timm.utils.setup_default_logging', lambda: None)  # It adds handlers that outlive the test.
    path = tmp_path / 'scripts' / 'train.py'
    path.parent.mkdir()
    path.write_text(SCRIPT)
    (path.parent / 'sibling.py').write_text('NAME = "beside the script"\n')
    yield path
    sys.modules.pop('sibling', None)


@pytest.fixture
def run(script, tmp_path):
    """Runs the script and returns the folder of the run; other arguments replace the script's text."""
    make_folder(tmp_path / 'data')

    def run(*argv, name='a', code=0, text=None):
        if text is not None:
            script.write_text(text)
        flags = ['--data-dir', tmp_path / 'data', *FLAGS, '--output', tmp_path, '--experiment', name]
        assert main(['run', *map(str, [script, *flags, *argv])]) == code
        return tmp_path / name

    return run


def state(run_dir) -> dict:
    return torch.load(run_dir / 'last.pth.tar', weights_only=False)


def error(capsys) -> str:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('timm-debias run: error: ')
    return line


def test_debiased_as_by_hand(run, monkeypatch, capsys):
    """The batches of the script, trained on by hand with our task: the same weights to the last bit."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = DebiasTask.forward

    def record(task, images, labels):
        seen.append((images.clone(), labels.clone()))
        return forward(task, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(DebiasTask, 'forward', record)
        run_dir = run('--debias', '--debias-gamma', 0.7)
    assert json.loads(capsys.readouterr().out.split('--result\n')[1])[0]['sibling'] == 'beside the script'
    args = SimpleNamespace(**yaml.safe_load((run_dir / 'args.yaml').read_text()))
    timm.utils.random_seed(args.seed)
    model = timm.create_model(args.model, num_classes=args.num_classes, drop_rate=0.0)
    task = create_debias_task(
        model,
        gamma=0.7,
        base_loss=timm.loss.LabelSmoothingCrossEntropy(args.smoothing),
        generator=torch.Generator().manual_seed(args.seed),
    )
    optimizer = timm.optim.create_optimizer_v2(model, **timm.optim.optimizer_kwargs(cfg=args))
    updates = len(seen) // args.epochs
    schedule, _ = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=updates)
    task.train()
    for number, (images, labels) in enumerate(seen, 1):
        task(images, labels)['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % updates == 0:
            schedule.step(number // updates, 0.0)
    expected, theirs = task.get_checkpoint_state(), state(run_dir)
    assert len(seen) == updates * args.epochs > 1
    for found, own in (
        (theirs['state_dict'], expected['state_dict']),
        (theirs['task_state']['aux_bn'], expected['task_state']['aux_bn']),
    ):
        assert found.keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in found.items())


def test_checkpoint_is_the_plain_model(run):
    run_dir = run('--debias', '--model-ema')
    checkpoint = state(run_dir)
    for key in ('state_dict', 'state_dict_ema'):
        assert not any('aux_bn' in name or 'stylizer' in name for name in checkpoint[key])
    assert checkpoint['task_state']['aux_bn']
    timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(run_dir / 'last.pth.tar'))
    # The optimizer trains the auxiliary batch norm too: two parameters for each norm.
    norms = sum(key.endswith('running_mean') for key in checkpoint['state_dict'])
    parameters = len(list(timm.create_model('test_resnet', num_classes=3).parameters()))
    trained = sum(len(group['params']) for group in checkpoint['optimizer']['param_groups'])
    assert trained == parameters + 2 * norms


def test_flags_are_kept_with_the_run(run, tmp_path):
    run_dir = run('--debias', '--debias-mode', 'shape')
    args = yaml.safe_load((run_dir / 'args.yaml').read_text())
    assert (args['debias'], args['debias_mode'], args['model']) == (True, 'shape', 'test_resnet')
    again = run('-c', run_dir / 'args.yaml', name='b')
    first, second = state(run_dir)['state_dict'], state(again)['state_dict']
    assert all(torch.equal(first[key], second[key]) for key in first)
    resumed = run('--debias', '--debias-mode', 'shape', '--resume', run_dir / 'last.pth.tar', '--epochs', 3, name='c')
    assert state(resumed)['epoch'] == 2


def test_without_debias_nothing_changes(run):
    run_dir = run()
    checkpoint = state(run_dir)
    assert 'task_state' not in checkpoint
    assert not any('aux_bn' in key for key in checkpoint['state_dict'])
    assert sys.modules.get('train') is None


def test_normalisation_is_that_of_the_loader(run, monkeypatch):
    """Images reach the stylizer as multiples of 1/255 in [0, 1], whatever the loader has subtracted."""
    seen = []
    apply = ShapeTextureMix.apply

    def watch(mix, images, labels, partners):
        seen.append(images * 255)
        return apply(mix, images, labels, partners)

    monkeypatch.setattr(ShapeTextureMix, 'apply', watch)
    for flags in (['--mean', 0.2, 0.3, 0.4, '--std', 0.5, 0.6, 0.7], ['--no-prefetcher', '--mean', 0.2, 0.3, 0.4]):
        run('--debias', *flags, '--epochs', 1, name=f'run{len(seen)}')
    assert len(seen) == 6
    for values in seen:
        torch.testing.assert_close(values, values.round().clamp(0, 255), atol=1e-3, rtol=0)


@pytest.mark.parametrize('rank', [0, 1])
def test_processes_draw_partners_of_their_own(run, monkeypatch, rank):
    init, seeds = timm.utils.init_distributed_device, []

    def pretend(args):
        device = init(args)
        args.rank = rank
        return device

    def watch(mix, batch_size):
        seeds.append(mix.generator.initial_seed())
        return torch.arange(batch_size).roll(1)

    monkeypatch.setattr('timm.utils.init_distributed_device', pretend)
    monkeypatch.setattr(ShapeTextureMix, 'sample', watch)
    run('--debias', '--seed', 5, '--epochs', 1)
    assert set(seeds) == {5 + rank}


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (['--debias', '--mixup', '0.2'], ['--mixup', '--debias']),
        (['--debias', '--cutmix', '1'], ['--cutmix', '--debias']),
        (['--debias', '--reprob', '0.2'], ['--reprob', '--debias']),
        (['--debias', '--aug-splits', '2'], ['--aug-splits', '--debias']),
        (['--debias', '--torchscript'], ['--torchscript', '--debias']),
        (['--debias', '--naflex-loader'], ['--naflex-loader', '--debias']),
        (['--debias', '--debias-gamma', '2'], ['--debias-gamma is 2', '[0, 1]']),
        (['--debias', '--debias-stylizer', 'adain_vgg'], ["unknown stylizer 'adain_vgg'"]),
        (['--debias-alpha', '0.3'], ['--debias-alpha', 'without --debias']),
        (['--debias', '--loss', 'asl'], ['--loss asl']),
        (['--debias', '--debias-multi-grid'], ['--debias-multi-grid', 'timm-debias train']),
        (['--debias', '--debias-style-dir', '.'], ['--debias-style-dir', 'timm-debias train']),
        (['--debias', '--debias-global-partners'], ['--debias-global-partners', 'timm-debias train']),
    ],
    ids=' '.join,
)
def test_refused_before_any_work(run, capsys, monkeypatch, flags, parts):
    monkeypatch.setattr('timm.models.create_model', lambda *_, **__: pytest.fail('a model was made'))
    run(*flags, code=2)
    line = error(capsys)
    assert all(part in line for part in parts)


def test_every_flag_of_ours_counts_or_is_refused(run, capsys, monkeypatch):
    ours = {field.name for field in dataclasses.fields(DebiasConfig)}
    assert ours >= set(run_script._HONOURED)
    refused = [f'`--{name.replace("_", "-")}`' for name in ours - set(run_script._HONOURED)]
    assert all(flag in DOCUMENT.read_text() for flag in refused)
    monkeypatch.setattr(run_script, '_HONOURED', ('debias',))
    run('--debias', '--debias-gamma', 0.7, code=2)
    assert '--debias-gamma needs a training loop of ours' in error(capsys)


def test_losses_that_are_created_by_name(run):
    """timm 1.0.31 lets its task create the loss."""
    options = "criterion_kwargs=dict(loss_type='poly', smoothing=args.smoothing)"
    run('--debias', text=SCRIPT.replace('criterion=loss.to(device)', options))
    run('--debias', '--bce-loss', text=SCRIPT, name='bce')


def test_mistakes_of_the_script_stay_its_own(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run('--no-such-flag')
    assert stop.value.code == 2
    assert 'unrecognized arguments: --no-such-flag' in capsys.readouterr().err


def test_help(script, capsys):
    with pytest.raises(SystemExit):
        main(['run', str(script), '--help'])
    text = capsys.readouterr().out
    assert all(flag in text for flag in ('--debias-gamma', '--grad-accum-steps'))


ORDER = textwrap.dedent("""
    import argparse
    from timm.data import create_loader
    from timm.models import create_model
    from timm.optim import create_optimizer_v2
    from timm.task import ClassificationTask

    parser = argparse.ArgumentParser()
    parser.add_argument('--seed', type=int, default=0)

    def main():
        parser.parse_known_args()
        parser.parse_args(['--debias'])
        model = create_model('test_resnet', num_classes=3)
        create_optimizer_v2(model, 'sgd')
""")


@pytest.mark.parametrize(
    ('text', 'part'),
    [
        ('print("hello")', 'no parser, main, ClassificationTask'),
        ('import no_such_package', 'no_such_package'),
        ('def (', 'does not load'),
        (ORDER, 'creates its optimizer before its ClassificationTask'),
    ],
    ids=['no script of timm', 'missing package', 'syntax', 'order'],
)
def test_scripts_of_another_kind(script, capsys, text, part):
    script.write_text(text)
    assert main(['run', str(script)]) == 2
    assert part in error(capsys)


@pytest.mark.parametrize('argv', [[], ['nowhere.py'], ['--debias'], ['--debias', 'train.py']], ids=str)
def test_no_script(capsys, argv):
    assert main(['run', *argv]) == 2
    error(capsys)
