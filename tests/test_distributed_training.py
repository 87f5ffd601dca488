"""Training in several processes: what one process with the same global batch computes, and jobs that lose a process."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
import torch.distributed as dist
from processes import launch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed.nn.functional import all_reduce
from training_runs import finished, killed, same_runs, train_command

from timm_debias import create_debias_task
from timm_debias.cli import main
from timm_debias.machine import init_machine
from timm_debias.study.main import build_parser as study_parser
from timm_debias.training import checkpoint, epochs
from timm_debias.training.main import build_parser

VIT = [
    '--model',
    'test_vit',
    '--model-kwargs',
    'img_size=32',
    '--opt',
    'adamw',
    '--lr',
    '0.001',
    '--warmup-epochs',
    '0',
]
DEBIAS = ['--debias', '--debias-global-partners', '--checkpoint-steps', '0']


def summary(folder: Path) -> list[dict[str, float]]:
    with (folder / 'run' / 'summary.csv').open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_losses_of_one_process(training_images, tmp_path):
    """The same global batch, partners drawn over all of it: a model without batch norm computes the same.

    With batch norm it takes --sync-bn, which torch has for GPUs alone; see below.
    """
    found = {}
    for world_size in (1, 2, 4):
        argv = train_command(training_images, tmp_path / str(world_size), *VIT, *DEBIAS, '-b', str(8 // world_size))
        finished([*argv, '--clip-grad', '1'], tmp_path / f'log-{world_size}', world_size)
        found[world_size] = summary(tmp_path / str(world_size))
    assert len({row['train_loss'] for row in found[1]}) == 3
    for world_size in (2, 4):
        for one, many in zip(found[1], found[world_size], strict=True):
            for name, value in one.items():
                assert many[name] == pytest.approx(value, abs=1e-6 if 'loss' in name else 1e-4), (world_size, name)


def test_gradients_are_summed_once_an_update(training_images, tmp_path):
    """Batches that only add to the gradient do not wait for the other process."""
    flags = [*VIT, *DEBIAS, '--epochs', '1', '--grad-accum-steps', '3']

    def counting() -> int:
        calls = []
        prepare = timm.task.ClassificationTask.prepare_distributed

        def prepared(task, **options):
            prepare(task, **options, bucket_cap_mb=1000)
            task.trainable_module.register_comm_hook(None, hook)
            return task

        def hook(_, bucket):
            calls.append(bucket.index())
            work = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
            return work.then(lambda future: future.value()[0])

        timm.task.ClassificationTask.prepare_distributed = prepared
        code = main(train_command(training_images, tmp_path / '2', *flags, '-b', '2'))
        assert len([index for index in calls if index == 0]) == 2  # 5 batches are updates of 3 and of 2.
        return code

    ended = launch(counting, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended
    finished(train_command(training_images, tmp_path / '1', *flags, '-b', '4'), tmp_path / 'log-1')
    one, two = (summary(tmp_path / name)[0]['train_loss'] for name in '12')
    assert two == pytest.approx(one, abs=1e-6)


def test_running_statistics_are_averaged(training_images, tmp_path):
    """--dist-bn reduce: after an epoch all processes have the mean of their statistics, auxiliary ones too."""

    def watched() -> int:
        share = epochs.Epochs._share_batch_norm

        def compared(self):
            before = {name: buffer.clone() for name, buffer in self.run.model.module.named_buffers()}
            share(self)
            for name, buffer in self.run.model.module.named_buffers():
                if 'running' not in name:
                    continue
                both = [torch.empty_like(buffer) for _ in range(2)]
                dist.all_gather(both, before[name])
                assert not torch.equal(*both), name
                assert torch.equal(buffer, (both[0] + both[1]) / 2), name
            assert any('aux_bn.running' in name for name in before)

        epochs.Epochs._share_batch_norm = compared
        return main(train_command(training_images, tmp_path, '--debias', '-b', '2', '--epochs', '1'))

    ended = launch(watched, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended


def sync_forward(self, x):
    """Synchronised batch norm, restated for the CPU: mean and variance over the images of all processes."""
    count = dist.get_world_size() * x.numel() / x.shape[1]
    total = all_reduce(x.sum((0, 2, 3), keepdim=True))
    squares = all_reduce(x.square().sum((0, 2, 3), keepdim=True))
    mean = total / count
    variance = squares / count - mean.square()
    with torch.no_grad():
        for running, new in ((self.running_mean, mean), (self.running_var, variance * count / (count - 1))):
            running.lerp_(new.flatten(), self.momentum)
        self.num_batches_tracked += 1
    x = (x - mean) * (variance + self.eps).rsqrt()
    return x * self.weight[:, None, None] + self.bias[:, None, None]


@pytest.mark.parametrize('world_size', [2, 4])
def test_synchronised_and_auxiliary_batch_norm(tmp_path, colour_stylizer, monkeypatch, world_size):
    """--sync-bn: the halves of a batch keep to themselves, each over all processes. Against one process with plain BN.

    torch's SyncBatchNorm runs on GPUs alone; its forward is restated, the wiring around it is ours.
    """
    images = torch.rand(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)

    def train(own: slice, distributed: bool):
        torch.manual_seed(0)
        model = timm.create_model('test_resnet', num_classes=8).double()
        if distributed:
            model = convert_sync_batchnorm(model)
        generator = torch.Generator().manual_seed(1)
        task = create_debias_task(model, colour_stylizer, generator=generator, global_partners=True, verbose=False)
        optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.05, momentum=0.9)
        task.trainable_module.train()
        losses = []
        for _ in range(3):
            loss = task(images[own], labels[own])['loss']
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters() if distributed else ():  # DDP refuses SyncBatchNorm on the CPU.
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses), model.state_dict()

    def run():
        monkeypatch.setattr(nn.SyncBatchNorm, 'forward', sync_forward)
        machine = init_machine('cpu')
        losses, state = train(slice(machine.rank, None, world_size), True)
        dist.all_reduce(losses)
        if machine.is_primary:
            torch.save((losses / world_size, state), tmp_path / 'many.pt')
        dist.destroy_process_group()

    ended = launch(run, world_size, tmp_path / 'log')
    assert all(process.code == 0 for process in ended), ended
    losses, state = train(slice(None), False)
    their_losses, their_state = torch.load(tmp_path / 'many.pt')
    torch.testing.assert_close(their_losses, losses, atol=1e-6, rtol=0)
    assert any('aux_bn' in key for key in state)
    for key, value in state.items():
        torch.testing.assert_close(their_state[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_synchronised_batch_norm_needs_a_gpu(train_command, tmp_path):
    ended = launch(lambda: main(train_command(tmp_path, '--sync-bn', '-b', '2')), 2, tmp_path / 'log')
    assert [process.code for process in ended] == [2, 2]
    assert '--sync-bn' in ended[0].err.splitlines()[-1]


def test_a_full_disk_ends_all_processes(train_command, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, 'No space left on device')

    def run():
        monkeypatch.setattr(checkpoint, 'atomic_path', refuse)
        return main(train_command(tmp_path, '-b', '2'))

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [2, 2], ended
    assert 'No space left on device' in ended[0].err.splitlines()[-1]


def test_as_slurm_starts_it(train_command, tmp_path):
    """Without torchrun's variables, from Slurm's."""

    def run() -> int:
        rank = os.environ['RANK']
        for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
            del os.environ[name]
        os.environ.update(SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_NTASKS='2')
        return main(train_command(tmp_path / 'slurm', '-b', '2', '--epochs', '1'))

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [0, 0], ended
    finished(train_command(tmp_path / 'torchrun', '-b', '2', '--epochs', '1'), tmp_path / 'log-torchrun', world_size=2)
    assert summary(tmp_path / 'slurm') == summary(tmp_path / 'torchrun')


@pytest.mark.parametrize(('code', 'requeued'), [(0, False), (2, False), (138, True), (143, True)])
@pytest.mark.parametrize('page', ['scale', 'study', 'studies/imagenet'])
def test_slurm_scripts_of_the_documentation(tmp_path, page, code, requeued):
    """With stand-ins for Slurm, a job is put back where what it runs was stopped."""
    text = (Path(__file__).parents[1] / f'docs/{page}.md').read_text()
    script = text.split('<!-- script: slurm -->')[1].split('```')[1].removeprefix('bash\n')
    for name, body in (('srun', f'echo "$@" > {tmp_path}/srun; exit {code}'),
                       ('scontrol', f'echo first; echo "$@" >> {tmp_path}/scontrol')):  # fmt: skip
        (tmp_path / name).write_text(f'#!/bin/sh\n{body}\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'}
    environment |= {'SLURM_ARRAY_TASK_ID': '2', 'SLURM_ARRAY_TASK_COUNT': '18', 'SLURM_CPUS_PER_TASK': '12'}
    done = subprocess.run(['bash', '-c', script], env=environment, capture_output=True)
    assert done.returncode == code
    called = tmp_path / 'scontrol'
    assert (called.exists() and 'requeue 7' in called.read_text()) == requeued
    option, *words = (tmp_path / 'srun').read_text().split()
    assert option == '--cpus-per-task=12'  # srun itself does not take that of sbatch.
    if page == 'scale':
        args = build_parser().parse_args([word for word in words[2:] if word not in ('-c', 'hparams/resnet50.yaml')])
        assert (args.resume, args.recovery_interval, args.experiment) == ('auto', 1000, 'NAME')
    else:
        assert words[:2] == ['timm-debias', 'study']
        assert study_parser().parse_args(words[2:]).shard == '2/18'


TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node']


@pytest.mark.slow
def test_a_lost_process_comes_back(training_images, tmp_path):
    """torchrun starts all processes again when one is killed, and --resume auto goes on: the same bits."""
    whole = train_command(training_images, tmp_path / 'whole', '--debias', '-b', '2')
    finished(whole, tmp_path / 'log', world_size=2)
    argv = train_command(training_images, tmp_path / 'killed', '--debias', '-b', '2', '--resume', 'auto')
    (tmp_path / 'fault.py').write_text(
        'import os, signal, sys\n'
        'from timm_debias.cli import main\n'
        'from training_runs import signal_after\n'
        "if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        '    signal_after(6, lambda: os.kill(os.getpid(), signal.SIGKILL))\n'
        'sys.exit(main(sys.argv[1:]))\n'
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [*TORCHRUN, '2', '--standalone', '--max-restarts', '1', str(tmp_path / 'fault.py'), *argv],
        capture_output=True, text=True, timeout=600,
        # Without it, restarted processes meet addresses of dead ones: pytorch issue 135712.
        env={**os.environ, 'PYTHONPATH': path, 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r'Going on from \S*recovery-1-', done.stderr)
    assert done.stdout.count('--result') == 1
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


@pytest.mark.slow
def test_two_machines(training_images, tmp_path):
    """Two torchrun agents that meet over the loopback; SIGTERM for one of them saves, and they go on together."""
    finished(train_command(training_images, tmp_path / 'whole', '-b', '2'), tmp_path / 'log', world_size=2)
    argv = train_command(training_images, tmp_path / 'two', '-b', '2', '--resume', 'auto', '-j', '1')
    program = ['-m', 'timm_debias.cli', *argv]
    with two_agents(program, tmp_path / 'first', '2') as first:
        wait_for(tmp_path / 'two' / 'run' / 'recovery-0-1.pth.tar', first)
        first[0].send_signal(signal.SIGTERM)
        assert all(agent.wait(timeout=300) != 0 for agent in first)
    with two_agents(program, tmp_path / 'second', '2') as second:
        assert [agent.wait(timeout=600) for agent in second] == [0, 0], (tmp_path / 'second0').read_text()
    assert 'Going on from' in (tmp_path / 'second0').read_text() + (tmp_path / 'second1').read_text()
    rows = [summary(tmp_path / name) for name in ('whole', 'two')]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_lost_machine(training_images, tmp_path):
    """With --nnodes 1:2, an agent and its process die of SIGKILL in epoch 1: the other agent's goes on alone.

    It leaves what two killed processes and a resume by one leave, and shows each image once an epoch.
    """
    by_hand, lost = (
        train_command(training_images, tmp_path / name, '-b', '2', '--resume', 'auto') for name in ('by_hand', 'lost')
    )
    killed(by_hand, 7, tmp_path / 'log-killed', world_size=2)
    finished(by_hand, tmp_path / 'log-resumed')
    (tmp_path / 'fault.py').write_text(
        'import json, os, signal, sys\n'
        'from timm_debias.cli import main\n'
        'from timm_debias.training.seeded_loader import SeededLoader\n'
        'from training_runs import signal_after\n'
        'batches = SeededLoader.__iter__\n'
        'def noted(self):\n'
        '    for batch in batches(self):\n'
        f'        with open({str(tmp_path / "shown")!r}, "a") as file:\n'
        '            for key in self.report.keys:\n'
        '                row = self.machine.world_size, key.epoch, key.position, key.image\n'
        '                print(json.dumps(row), file=file)\n'
        '        yield batch\n'
        'SeededLoader.__iter__ = noted\n'
        "if (os.environ['RANK'], os.environ['WORLD_SIZE']) == ('0', '2'):\n"
        '    signal_after(7, lambda: [os.kill(process, signal.SIGKILL) for process in (os.getppid(), os.getpid())])\n'
        'sys.exit(main(sys.argv[1:]))\n'
    )
    with two_agents([str(tmp_path / 'fault.py'), *lost], tmp_path / 'agent', '1:2', '--max-restarts', '1') as agents:
        codes = [agent.wait(timeout=300) for agent in agents]
    log = (tmp_path / 'agent1').read_text()
    assert codes == [-signal.SIGKILL, 0], log
    assert re.search(r'Going on from \S*recovery-1-0\.pth\.tar, epoch 1, batch 2\.', log)
    assert [row['epoch'] for row in summary(tmp_path / 'lost')] == [0, 1, 2]
    same_runs(tmp_path / 'by_hand' / 'run', tmp_path / 'lost' / 'run')
    shown = [json.loads(line) for line in (tmp_path / 'shown').read_text().splitlines()]
    # Of epoch 1, the first 4 images are in the checkpoint; what the two processes showed after it is shown again.
    kept = [image for processes, epoch, position, image in shown if processes == 2 and epoch == 1 and position < 4]
    alone = {number: [image for processes, epoch, _, image in shown if (processes, epoch) == (1, number)]
             for number in range(3)}  # fmt: skip
    assert alone[0] == []
    assert sorted(kept + alone[1]) == sorted(alone[2]) == list(range(22))


@contextmanager
def two_agents(program: list[str], log: Path, nodes: str, *flags: str) -> Iterator[list[subprocess.Popen]]:
    """Start torchrun twice, with a process each, and stop what still runs at the end.

    The second is the host of the rendezvous. The first has rank 0: torchrun sorts the agents of a host by process id.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        endpoint = f'127.0.0.1:{free.getsockname()[1]}'
    command = [*TORCHRUN, '1', '--nnodes', nodes, *flags, '--rdzv-backend', 'c10d', '--rdzv-endpoint', endpoint]
    # A lost agent is given up after 2 seconds; then new ones have 10 to join.
    patience = 'keep_alive_interval=1,keep_alive_max_attempt=2,last_call_timeout=10'
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    agents = []
    try:
        for number in range(2):
            with Path(f'{log}{number}').open('w') as output:
                agents.append(
                    subprocess.Popen(
                        [*command, '--rdzv-conf', f'is_host={number},{patience}', *program],
                        stdout=output, stderr=output,
                        env={**os.environ, 'PYTHONPATH': path, 'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'},
                    )
                )  # fmt: skip
        yield agents
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait()


def wait_for(path: Path, agents: list[subprocess.Popen]) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end
        assert all(agent.poll() is None for agent in agents)
        time.sleep(0.05)
