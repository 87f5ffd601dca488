"""Updates that were not finite, computed again from their files."""

import math

import pytest
import timm
import torch
from processes import forked, launch
from test_nonfinite import poisoned_main
from training_runs import train_command

from timm_debias.cli import main
from timm_debias.training import loop
from timm_debias.training.checkpoint import read_checkpoint, write_checkpoint
from timm_debias.training.replay import replay
from timm_debias.training.update_file import UPDATE


def exploding_main(argv, at):
    """Let weights be so large before an update, and only then, that its loss is not finite."""

    def run() -> int:
        original = loop._step
        done = []

        def step(run) -> None:
            original(run)
            done.append(1)
            if len(done) == at:
                with torch.no_grad():
                    run.model.conv1[0].weight.fill_(1e38)

        loop._step = step
        return main(argv)

    return run


@pytest.mark.parametrize('flags', [[], ['--debias', '--drop', '0.5', '--grad-accum-steps', '2']], ids=str)
def test_the_loss_and_its_cause_again(training_images, tmp_path, capsys, flags):
    """A run of its own stops; the command shows the same loss, and in which module it began."""
    argv = train_command(training_images, tmp_path, *flags)
    ended = forked(exploding_main(argv, 2), tmp_path / 'log')
    assert ended.code == 2
    (path,) = (tmp_path / 'run').glob('nonfinite-*.pt')
    assert f'timm-debias replay {path}' in ended.err
    assert main(['replay', str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{path.name}: epoch 0, update 2'
    saved = [batch['losses']['loss'] for batch in read_checkpoint(path)[UPDATE]['batches']]
    assert f'computed again: loss {", ".join(f"{loss:g}" for loss in saved)}' in lines
    assert any(line.startswith('modules whose output is not finite: conv1.0, ') for line in lines)
    assert sum(str(training_images / 'train') in line for line in lines) == 4 * len(saved)
    assert not replay(path).is_finite


def test_finite_losses_to_the_last_bit(training_images, tmp_path):
    """Partners, dropout and normalisation are those of the run: what was finite has the same value again."""
    argv = train_command(training_images, tmp_path, '--debias', '--drop', '0.5', '--epochs', '1')
    ended = forked(poisoned_main(argv, {2}), tmp_path / 'log')
    assert ended.code == 2
    (path,) = (tmp_path / 'run').glob('nonfinite-*.pt')
    (batch,) = read_checkpoint(path)[UPDATE]['batches']
    assert math.isnan(batch['losses']['loss'])  # Made so after the forward pass, which the command cannot know.
    replayed = replay(path)
    halves = batch['losses']['loss_clean'], batch['losses']['loss_stylised']
    assert replayed.losses == [(torch.tensor(halves[0]) + torch.tensor(halves[1])).div(2).item()]
    assert replayed.is_finite


def test_says_where_nothing_is_wrong(training_images, tmp_path, capsys):
    assert forked(poisoned_main(train_command(training_images, tmp_path), {2}), tmp_path / 'log').code == 2
    (path,) = (tmp_path / 'run').glob('nonfinite-*.pt')
    assert main(['replay', str(path)]) == 0
    assert 'Here everything is finite' in capsys.readouterr().out


def test_update_that_took_styles_of_other_processes(training_images, tmp_path, capsys):
    """Alone, a process would draw other partners and say something of another update."""
    argv = train_command(training_images, tmp_path, '--debias', '--debias-global-partners', '-b', '2')
    ended = launch(poisoned_main(argv, {2}), 2, tmp_path / 'log')
    assert {process.code for process in ended} == {2}
    assert not any('replay' in process.err for process in ended)
    path = sorted((tmp_path / 'run').glob('nonfinite-*.pt'))[0]
    assert main(['replay', str(path)]) == 2
    output = capsys.readouterr()
    assert '--debias-global-partners took styles of other processes' in output.err
    assert 'computed again' not in output.out
    content = read_checkpoint(path)
    content[UPDATE]['processes'] = 1
    write_checkpoint(path, content)
    assert main(['replay', str(path)]) == 0


def test_a_file_of_a_version_with_fewer_flags(training_images, tmp_path):
    assert forked(poisoned_main(train_command(training_images, tmp_path), {2}), tmp_path / 'log').code == 2
    (path,) = (tmp_path / 'run').glob('nonfinite-*.pt')
    content, losses = read_checkpoint(path), replay(path).losses
    del content['args'].debias_multi_grid
    write_checkpoint(path, content)
    assert replay(path).losses == losses


def test_pretrained_path_is_not_read_again(training_images, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save(timm.create_model('test_resnet', channels=(4, 4, 4, 4), stem_width=4).state_dict(), weights)
    argv = train_command(training_images, tmp_path, '--pretrained', '--pretrained-path', str(weights))
    assert forked(poisoned_main(argv, {2}), tmp_path / 'log').code == 2
    weights.unlink()
    (path,) = (tmp_path / 'run').glob('nonfinite-*.pt')
    assert replay(path).is_finite


def test_mistakes(tmp_path, capsys):
    assert main(['replay', str(tmp_path / 'nowhere.pt')]) == 2
    assert 'nowhere.pt: no such file' in capsys.readouterr().err
    write_checkpoint(tmp_path / 'a.pt', {'state_dict': {}, 'timm_debias': {'serial': 0, 'epoch': 0, 'batch': 0}})
    assert main(['replay', str(tmp_path / 'a.pt')]) == 2
    assert 'holds no update' in capsys.readouterr().err
    assert main(['replay', str(tmp_path / 'a.pt'), '--device', 'tpu9']) == 2
