"""Fully sharded training against DistributedDataParallel: the same numbers, and the same checkpoints."""

import copy
import shutil

import pytest
import timm
import torch
import torch.distributed as dist
from processes import launch
from test_distributed_training import VIT, summary
from test_nonfinite import poisoned_main
from timm.optim import create_optimizer_v2
from torch import nn
from training_runs import finished, killed, same_runs, train_command

from timm_debias.cli import main
from timm_debias.machine import Machine, init_machine
from timm_debias.training import fsdp
from timm_debias.training.checkpoint import read_checkpoint
from timm_debias.training.replay import replay

RESNET = [
    '--model-kwargs',
    'channels=(4,4,4,4)',
    'stem_width=4',
    'layers=(2,2,1,1)',
    '--opt',
    'sgd',
    '--clip-grad',
    '0.5',
    '--model-ema',
    '--model-ema-decay',
    '0.5',
    '--debias',
]
RUNS = {
    # Auxiliary batch norm, moving average, clipping; two passes, each through all blocks, of several batches an update.
    'resnet': RESNET,
    'passes': [*RESNET, '--debias-multi-grid', '--debias-min-size', '16', '--grad-accum-steps', '2'],
    'vit': [*VIT, '--debias', '--debias-global-partners', '--clip-grad', '0.1', '--clip-mode', 'value'],
}


@pytest.mark.parametrize('name', RUNS)
def test_as_ddp(training_images, tmp_path, name):
    """Losses of each epoch to 1e-6, the weights of the checkpoints to what two epochs make of rounding.

    With --no-ddp-bb, as FSDP sends no running statistics before each forward either.
    """
    flags = [*RUNS[name], '-b', '2', '--epochs', '2', '--no-ddp-bb', '--checkpoint-steps', '0']
    for kind in ('ddp', 'fsdp'):
        argv = train_command(training_images, tmp_path / kind, *flags, *(['--fsdp'] if kind == 'fsdp' else []))
        finished(argv, tmp_path / f'log-{kind}', world_size=2)
    ddp, sharded = (summary(tmp_path / kind) for kind in ('ddp', 'fsdp'))
    for one, other in zip(ddp, sharded, strict=True):
        assert other['train_loss'] == pytest.approx(one['train_loss'], abs=1e-6)
        assert other['eval_loss'] == pytest.approx(one['eval_loss'], abs=1e-6)
    contents = [read_checkpoint(tmp_path / kind / 'run' / 'last.pth.tar') for kind in ('ddp', 'fsdp')]
    for key in contents[0]:
        if key.startswith(('state_dict', 'task_state', 'optimizer')):
            assert_close(*(content[key] for content in contents), key)


def assert_close(one, other, path):
    if isinstance(one, torch.Tensor):
        assert type(other) is torch.Tensor
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4, msg=path)
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f'{path}/{key}')
    elif isinstance(one, list):
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_close(first, second, f'{path}/{number}')
    else:
        assert one == other, path


def test_killed_and_gone_on_with(training_images, tmp_path):
    """The same bits; and what it has saved is a plain model, that DDP goes on with too."""
    flags = [*RESNET, '--fsdp', '-b', '2', '--epochs', '2']
    finished(train_command(training_images, tmp_path / 'whole', *flags), tmp_path / 'log', world_size=2)
    argv = train_command(training_images, tmp_path / 'killed', *flags, '--resume', 'auto')
    killed(argv, 7, tmp_path / 'log-killed', world_size=2)
    saved = shutil.copy(tmp_path / 'killed' / 'run' / 'recovery-1-0.pth.tar', tmp_path / 'saved')
    model = timm.create_model('test_resnet', num_classes=3, channels=(4, 4, 4, 4), stem_width=4, layers=(2, 2, 1, 1))
    model.load_state_dict(read_checkpoint(saved)['state_dict'])
    finished(argv, tmp_path / 'log-on', world_size=2)
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')
    argv = train_command(training_images, tmp_path / 'ddp', *RESNET, '-b', '2', '--epochs', '2', '--resume', str(saved))
    finished(argv, tmp_path / 'log-ddp', world_size=2)
    one, other = (summary(tmp_path / name) for name in ('whole', 'ddp'))
    assert other[0]['train_loss'] == pytest.approx(one[1]['train_loss'], abs=1e-6)


def test_updates_that_are_not_finite(training_images, tmp_path):
    """Undone as without --fsdp, though each process has parts alone; stopped, the file has the whole model."""
    flags = [*RESNET, '-b', '2', '--epochs', '1', '--no-ddp-bb', '--checkpoint-steps', '0']
    for kind in ('ddp', 'fsdp'):
        own = [*flags, *(['--fsdp'] if kind == 'fsdp' else [])]
        argv = train_command(training_images, tmp_path / kind, *own, '--on-nonfinite', 'skip')
        ended = launch(poisoned_main(argv, {0, 2}, 1), 2, tmp_path / f'log-{kind}')
        assert [process.code for process in ended] == [0, 0], ended
    contents = [read_checkpoint(tmp_path / kind / 'run' / 'last.pth.tar') for kind in ('ddp', 'fsdp')]
    for key in ('state_dict', 'task_state', 'state_dict_ema', 'optimizer'):
        assert_close(*(content[key] for content in contents), key)
    argv = train_command(training_images, tmp_path / 'stop', *flags, '--fsdp')
    ended = launch(poisoned_main(argv, {2}, 1), 2, tmp_path / 'log-stop')
    assert [process.code for process in ended] == [2, 2], ended
    assert len(replay(tmp_path / 'stop' / 'run' / 'nonfinite-0-2-1.pt').losses) == 1


def test_each_process_holds_its_part(tmp_path):
    """A process has half of the weights and of the optimizer's state; the blocks are gathered one at a time."""

    def run() -> int:
        machine = init_machine('cpu')
        torch.manual_seed(machine.rank)  # Weights are those of the first process.
        task = timm.task.ClassificationTask(timm.create_model('test_vit', img_size=32), verbose=False)
        model = task.trainable_module
        first = [parameter.detach().clone() for parameter in model.parameters()]
        fsdp.shard(task, machine)
        optimizer = create_optimizer_v2(model, 'adamw', lr=1e-3)
        task(torch.rand(2, 3, 32, 32), torch.arange(2))['loss'].backward()
        optimizer.step()
        whole = sum(parameter.numel() for parameter in model.parameters())
        local = [parameter.to_local() for parameter in model.parameters()]
        assert sum(part.numel() for part in local) <= 0.51 * whole
        moments = [state['exp_avg'].to_local() for state in optimizer.state.values()]
        assert sum(part.numel() for part in moments) <= 0.51 * whole
        shards = [type(module).__name__ for module in model.modules() if hasattr(module, 'unshard')]
        assert shards == ['FSDPVisionTransformer', *['FSDPBlock'] * len(model.blocks)]
        for one in first:
            dist.broadcast(one, 0)
        parts = [state['exp_avg'].full_tensor() for state in optimizer.state.values()]
        assert len(parts) == len(first)
        dist.destroy_process_group()
        return 0

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended


def test_repeated_blocks():
    """Blocks, and stages of them, whatever the architecture calls them; inner ones before outer ones."""
    names = {
        'test_vit': {'Block'},
        'resnet18': {'BasicBlock'},
        'test_convnext': {'ConvNeXtBlock', 'ConvNeXtStage'},
    }
    for name, expected in names.items():
        model = timm.create_model(name)
        blocks = fsdp.repeated_blocks(model)
        assert {type(block).__name__ for block in blocks} == expected, name
        order = {block: number for number, block in enumerate(blocks)}
        for block in blocks:
            for inner in block.modules():
                assert order.get(inner, -1) <= order[block]


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 7))


def test_optimizers(tmp_path):
    """Those that --fsdp takes compute with sharded parameters what they compute with whole ones."""

    def run() -> int:
        machine = init_machine('cpu')
        images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for name in fsdp.OPTIMIZERS:
            torch.manual_seed(0)
            plain = Small()
            task = timm.task.ClassificationTask(copy.deepcopy(plain), verbose=False)
            fsdp.shard(task, machine)
            models = (plain, task.trainable_module)
            optimizers = [create_optimizer_v2(model, name, lr=1e-2, weight_decay=1e-2) for model in models]
            for _ in range(3):
                for model, optimizer in zip(models, optimizers, strict=True):
                    optimizer.zero_grad()
                    model(images).square().mean().backward()
                    optimizer.step()
            for one, other in zip(*(model.parameters() for model in models), strict=True):
                torch.testing.assert_close(other.full_tensor(), one, atol=1e-6, rtol=1e-5, msg=name)
        dist.destroy_process_group()
        return 0

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ('--torchcompile', '--torchcompile'),
        ('--channels-last', '--channels-last'),
        ('--model-ema --model-ema-force-cpu', '--model-ema-force-cpu'),
        ('--on-bad-image replace', '--on-bad-image'),
        ('--clip-grad 0.1 --clip-mode agc', 'norm or value'),
        ('--kd-model-name test_vit', '--kd-model-name'),
        ('--opt muon', '--opt muon'),
        ('', 'torchrun'),
    ],
)
def test_what_does_not_go_with_it(train_command, tmp_path, capsys, flags, message):
    assert main(train_command(tmp_path, '--fsdp', *flags.split())) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert '--fsdp' in error
    assert message in error


def test_a_model_that_cannot_be_sharded(tmp_path):
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

    def run() -> int:
        machine = init_machine('cpu')
        task = timm.task.ClassificationTask(Scalar(), verbose=False)
        with pytest.raises(Exception, match=r'Scalar cannot be sharded .*scale'):
            fsdp.shard(task, machine)
        dist.destroy_process_group()
        return 0

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended


def test_one_process():
    task = timm.task.ClassificationTask(Small(), verbose=False)
    with pytest.raises(Exception, match='torchrun'):
        fsdp.shard(task, Machine(torch.device('cpu')))
