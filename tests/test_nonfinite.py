"""Updates whose loss or gradient is NaN or infinite: training stops, or goes on as if they had not been."""

import math
import os
import signal

import pytest
import timm
import torch
from processes import forked
from training_runs import finished, launch, metrics, result, same, same_runs, signal_after, train_command

from timm_debias import DebiasError, create_debias_task
from timm_debias.cli import main
from timm_debias.machine import Machine
from timm_debias.training import loop
from timm_debias.training.bad_images import Report
from timm_debias.training.checkpoint import read_checkpoint
from timm_debias.training.loop import Run, settle, train_one_epoch
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.meters import Meters
from timm_debias.training.nonfinite import MAX_SKIPPED, HostFlag
from timm_debias.training.optim import build_optimizer
from timm_debias.training.precision import LossScaler

CPU = Machine(torch.device('cpu'))
FLAGS = ['--device', 'cpu', '--model', 'test_resnet', '--num-classes', '10', '--lr', '0.05', '--log-interval', '1']


class Batches(list):
    report = Report()

    def set_position(self, epoch, batch):
        assert batch == 0


def batches(count=6, bad=()):
    generator = torch.Generator().manual_seed(0)
    made = Batches((torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4)) for _ in range(count))
    for number in bad:
        made[number][0][1, 2, 3, 4] = 3e38  # Finite, as the stylizer wants it; batch norm makes NaN of its square.
    return made


def run_of(stylizer, data, *flags):
    config = config_from_args(build_parser().parse_args([*FLAGS, *map(str, flags)]))
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=10, drop_rate=0.2)
    task = create_debias_task(model, stylizer, generator=torch.Generator().manual_seed(1), verbose=False)
    if '--model-ema' in flags:
        task.setup_ema(0.9, False, None)
    return Run(config, CPU, task, data, build_optimizer(config, model), num_epochs=1)


def train(run):
    meters = Meters(CPU)
    torch.manual_seed(3)
    train_one_epoch(run, 0, meters)
    return run.task.get_checkpoint_state(), meters


class Waiting:
    """What `skip` is to be: an update is computed, looked at, and forgotten before the next is begun."""

    @staticmethod
    def train(run, bad, accum=1):
        optimizer, task = run.optimizer, run.task
        torch.manual_seed(3)
        task.get_trainable_module().train()
        total = count = 0.0
        for number in range(0, len(run.loader), accum):
            state = {name: value.clone() for name, value in task.get_trainable_module().state_dict().items()}
            task.set_position(0, number // accum)
            group = run.loader[number : number + accum]
            losses = []
            for images, labels in group:
                loss = task(images, labels)['loss']
                (loss / len(group)).backward()
                losses.append(loss.item())
            if bad & set(range(number, number + accum)):
                task.get_trainable_module().load_state_dict(state)
            else:
                optimizer.step()
                task.update_ema(step=number // accum + 1)
                total, count = total + 4 * sum(losses), count + 4 * len(group)
            optimizer.zero_grad()
        return task.get_checkpoint_state(), total / (count or math.nan)


@pytest.mark.parametrize('bad', [{0}, {2}, {5}, {1, 2, 3}, {0, 2, 5}], ids=str)
@pytest.mark.parametrize(
    'flags',
    [[], ['--opt', 'adamw'], ['--opt', 'lookahead_sgd'], ['--model-ema'], ['--grad-accum-steps', 2]],
    ids=lambda flags: ' '.join(map(str, flags)),
)
def test_skip_is_as_if_the_host_had_waited(colour_stylizer, bad, flags):
    """Weights, statistics, optimizer, moving average, partners and dropout are the same to the last bit."""
    accum = 2 if '--grad-accum-steps' in flags else 1
    ours = run_of(colour_stylizer, batches(6, bad), '--on-nonfinite', 'skip', *flags)
    state, meters = train(ours)
    waiting = run_of(colour_stylizer, batches(6, bad), *flags)
    expected, loss = Waiting.train(waiting, bad, accum)
    if hasattr(waiting.optimizer, 'sync_lookahead'):
        waiting.optimizer.sync_lookahead()
        expected = waiting.task.get_checkpoint_state()
    same(state, expected)
    same(ours.optimizer.state_dict()['state'], waiting.optimizer.state_dict()['state'])
    if '--model-ema' in flags:
        same(ours.task.get_checkpoint_state(ema=True), waiting.task.get_checkpoint_state(ema=True))
    assert meters.skipped == len({number // accum for number in bad})
    assert meters.compute()['loss'] == pytest.approx(loss, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize('policy', ['stop', 'skip', 'ignore'])
def test_nothing_changes_where_all_is_finite(colour_stylizer, policy):
    state, meters = train(run_of(colour_stylizer, batches(), '--on-nonfinite', policy))
    same(state, Waiting.train(run_of(colour_stylizer, batches()), set())[0])
    assert meters.skipped == 0


def kept(guard) -> set[int]:
    """Return the addresses of the tensors that a guard holds between two updates."""
    snapshots = [guard._weights, guard._ema, guard._state._tensors, *guard._buffers]
    copies = [copy for snapshot in snapshots for copy in snapshot._copies]
    updates = [update for update in (guard.update, guard._before) if update is not None]
    return {tensor.data_ptr() for tensor in copies + [batch.images for update in updates for batch in update.batches]}


@pytest.mark.parametrize('policy', ['stop', 'ignore'])
def test_ignore_keeps_nothing(colour_stylizer, policy):
    """No copy of weights and statistics, and no images."""
    accum = ['--grad-accum-steps', 2]
    run = run_of(colour_stylizer, batches(8), '--on-nonfinite', policy, '--model-ema', *accum)
    found = []
    run.on_update = lambda epoch, batch, meters: found.append(kept(run.guard))
    forward = run.task.forward
    run.task.forward = lambda *batch: found.append(kept(run.guard)) or forward(*batch)
    train(run)
    assert len(found) == 3 + 8
    assert all(bool(addresses) == (policy == 'stop') for addresses in found)


def test_ignore_goes_on(colour_stylizer):
    """Not finite, the weights are spoilt, as in timm."""
    run = run_of(colour_stylizer, batches(), '--on-nonfinite', 'ignore')
    weight = run.model.get_classifier().weight
    weight.register_hook(lambda grad: grad * math.nan)
    _, meters = train(run)
    assert not weight.isfinite().any()
    assert math.isnan(meters.compute()['loss'])
    assert meters.skipped == 0


def test_stop_names_the_update_and_brings_the_weights_back(colour_stylizer):
    run = run_of(colour_stylizer, batches(6, {3}))
    saved = []
    run.guard.save = lambda update: saved.append(update) or 'Saved'
    with pytest.raises(DebiasError, match=r'epoch 0, update 3: loss or gradient is not finite\. Saved\.'):
        train(run)
    (update,) = saved
    assert torch.equal(update.batches[0].images, batches(6, {3})[3][0])
    same(run.task.get_checkpoint_state(), Waiting.train(run_of(colour_stylizer, batches(3)), set())[0])


def test_a_gradient_alone(colour_stylizer):
    """The loss is finite and its gradient is not."""
    run = run_of(colour_stylizer, batches(), '--on-nonfinite', 'skip', '--clip-grad', '1', '--clip-mode', 'value')
    weight = run.model.get_classifier().weight
    calls = []
    weight.register_hook(lambda grad: calls.append(1) or (grad.fill_(math.inf) if len(calls) == 2 else grad))
    _, meters = train(run)
    assert meters.skipped == 1
    assert math.isfinite(meters.compute()['loss'])
    assert weight.isfinite().all()


def test_too_many_in_a_row(colour_stylizer):
    count = MAX_SKIPPED + 1
    good_between = batches(2 * count, set(range(2 * count)) - {MAX_SKIPPED})
    run = run_of(colour_stylizer, good_between[: count + 2], '--on-nonfinite', 'skip')
    run.loader = Batches(run.loader)
    train(run)
    assert run.guard.skipped_in_a_row == 2
    run = run_of(colour_stylizer, batches(count, set(range(count))), '--on-nonfinite', 'skip')
    with pytest.raises(
        DebiasError, match=f'update {MAX_SKIPPED}: loss or gradient is not finite {count} times in a row'
    ):
        train(run)


def test_an_epoch_of_nothing_else(colour_stylizer):
    run = run_of(colour_stylizer, batches(2, {0, 1}), '--on-nonfinite', 'skip')
    _, meters = train(run)
    assert meters.skipped == 2
    assert math.isnan(meters.compute()['loss'])


class Overflowing(LossScaler):
    """A scaler of the CPU with a scale of its own."""

    def __init__(self, scale: float) -> None:
        super().__init__(device='cpu')
        self._scaler = torch.amp.GradScaler('cpu', init_scale=scale)


def test_what_the_scaler_handles_is_no_error(colour_stylizer):
    """A gradient overflows twice, the scaler halves the scale and leaves the update out: training goes on."""
    run = run_of(colour_stylizer, batches())
    run.scaler = Overflowing(2.0**16)
    calls = []
    hook = lambda grad: calls.append(1) or (grad * math.inf if len(calls) in (2, 3) else grad)  # noqa: E731
    run.model.get_classifier().weight.register_hook(hook)
    state, meters = train(run)
    assert run.scaler.scale == 2.0**14
    assert meters.skipped == 0
    assert all(value.isfinite().all() for value in state['state_dict'].values())


def test_a_scale_below_one_is(colour_stylizer):
    run = run_of(colour_stylizer, batches())
    run.scaler = Overflowing(1.0)
    run.model.get_classifier().weight.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(DebiasError, match='epoch 0, update 0'):
        train(run)


def test_a_loss_with_a_scaler(colour_stylizer):
    run = run_of(colour_stylizer, batches(6, {2}), '--on-nonfinite', 'skip')
    run.scaler = Overflowing(2.0**16)
    state, meters = train(run)
    assert meters.skipped == 1
    assert all(value.isfinite().all() for value in state['state_dict'].values())


def test_host_flag():
    assert HostFlag(torch.tensor(True))
    assert not HostFlag(torch.tensor(False))


def test_settled_before_the_next_update(colour_stylizer):
    """As before a checkpoint; the update after it is not computed again."""
    run = run_of(colour_stylizer, batches(6, {2}), '--on-nonfinite', 'skip')
    settled = []
    run.on_update = lambda epoch, batch, meters: settled.append(settle(run, meters))
    state, meters = train(run)
    assert settled == [False, False, True, False, False]
    same(state, Waiting.train(run_of(colour_stylizer, batches(6, {2})), {2})[0])
    assert meters.skipped == 1


def poison(updates: set[int], rank_of_bad: int = 0) -> None:
    """Let the losses of some updates of this process be NaN, counted over the whole run by their images."""
    original = loop.Run.__post_init__

    def set_up(run) -> None:
        original(run)
        forward = run.task.forward

        def poisoned(images, target):
            result = forward(images, target)
            update = run.guard.update
            number = update.epoch * run.updates_per_epoch + update.number
            if number in updates and run.machine.rank == rank_of_bad:
                result['loss'] = result['loss'] * math.nan
            return result

        run.task.forward = poisoned

    loop.Run.__post_init__ = set_up


def poisoned_main(argv, updates, rank_of_bad=0):
    def run() -> int:
        poison(updates, rank_of_bad)
        return main(argv)

    return run


def test_skipped_and_killed(training_images, tmp_path):
    """Gone on with to the same bits; skipped updates are counted in the summary."""
    flags = ['--debias', '--on-nonfinite', 'skip', '--model-ema']
    whole = forked(
        poisoned_main(train_command(training_images, tmp_path / 'whole', *flags), {3, 6, 7}), tmp_path / 'log'
    )
    assert whole.code == 0, whole.err
    argv = train_command(training_images, tmp_path / 'killed', *flags, '--resume', 'auto')

    from training_runs import result

    def run() -> int:
        signal_after(6, lambda: os.kill(os.getpid(), signal.SIGKILL))
        return poisoned_main(argv, {3, 6, 7})()

    assert forked(run, tmp_path / 'log-killed').code == -signal.SIGKILL
    resumed = forked(poisoned_main(argv, {3, 6, 7}), tmp_path / 'log-resumed')
    assert 'Going on from' in resumed.err
    assert result(resumed) == result(whole)
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')
    assert [epoch['train']['skipped_updates'] for epoch in result(whole)] == [1, 2, 0]
    assert [row['step'] - 1 for row in metrics(tmp_path / 'killed' / 'run') if row.get('skipped')] == [3, 6, 7]


@pytest.mark.parametrize('rank_of_bad', [0, 1])
def test_two_processes_agree(training_images, tmp_path, rank_of_bad):
    """One has a loss that is not finite; both undo the update, and both stop."""
    flags = ['-b', '2', '--epochs', '1', '--debias']
    argv = train_command(training_images, tmp_path / 'skip', *flags, '--on-nonfinite', 'skip')
    first, second = launch(poisoned_main(argv, {1}, rank_of_bad), 2, tmp_path / 'log')
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert result(first)[0]['train']['skipped_updates'] == 1
    weights = read_checkpoint(tmp_path / 'skip' / 'run' / 'last.pth.tar')['state_dict']
    assert all(value.isfinite().all() for value in weights.values())
    ended = launch(poisoned_main(train_command(training_images, tmp_path / 'stop', *flags), {1}, rank_of_bad), 2,
                   tmp_path / 'log-stop')  # fmt: skip
    assert [process.code for process in ended] == [2, 2], [process.err for process in ended]
    assert [path.name for path in (tmp_path / 'stop' / 'run').glob('nonfinite*')] == [f'nonfinite-0-1-{rank_of_bad}.pt']


def test_stopped_before_a_checkpoint_of_spoilt_weights(training_images, tmp_path):
    """The update before a checkpoint is not finite: it is not written, and the run can go on from the last."""
    ended = forked(poisoned_main(train_command(training_images, tmp_path), {3}), tmp_path / 'log')
    assert ended.code == 2
    assert 'epoch 0, update 3' in ended.err.splitlines()[-1]
    names = {path.name for path in (tmp_path / 'run').glob('*.pth.tar')}
    assert names == {'recovery-0-1.pth.tar'}
    assert [row['loss'] is None for row in metrics(tmp_path / 'run')] == [False, False, False, True]
    finished(train_command(training_images, tmp_path, '--resume', 'auto'), tmp_path / 'log-resumed')
