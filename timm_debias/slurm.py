"""The command `timm-debias submit`: a training run as a Slurm job that goes on after preemption, by submitit."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .checks import DATA_FLAGS
from .errors import DebiasError, told_as
from .flags import Parser, add_flags, config_from, flag, parse_with_yaml
from .training.checks import check_config
from .training.config import TrainConfig
from .training.main import build_parser as build_training_parser
from .training.main import config_from_args

_SECONDS_TO_SAVE = 120
_REQUEUES = 1000
"""How often a job may come to the end of its time; training says itself when it has ended."""


@dataclass(frozen=True)
class SubmitConfig:
    """Job parameters"""

    nodes: int = flag(1, 'machines', metavar='N')
    gpus_per_node: int = flag(8, 'GPUs of each, with a process for each; 0 for one process without', metavar='N')
    cpus_per_task: int = flag(12, 'CPUs of each process, for -j/--workers and one more', metavar='N')
    mem_gb: float | None = flag(None, "memory of each machine, the cluster's default if not given", type=float)
    hours: float = flag(24.0, 'time after which the job is put back into the queue', metavar='H')
    partition: str | None = flag(None, 'Slurm partition', metavar='NAME')
    account: str | None = flag(None, 'Slurm account', metavar='NAME')
    qos: str | None = flag(None, 'Slurm quality of service', metavar='NAME')
    constraint: str | None = flag(None, 'features that the machines must have', metavar='TEXT')
    cluster: str = flag('slurm', 'local: run it here', choices=['slurm', 'local'])
    logs: str = flag('./output/jobs', 'folder for logs and job files, on a disk that all machines share', metavar='DIR')


def main(argv: Sequence[str] | None = None) -> int:
    """Submit `train.py` with all flags that are not the job's, print the job's number, and return the exit code.

    Raises:
        DebiasError: a mistake in the flags of the job or of the training, submitit missing, or Slurm's refusal.
    """
    args, training = build_parser().parse_known_args(argv)
    job = submit(config_from(SubmitConfig, args), training)
    print(f'Job {job.job_id}; its logs: {job.paths.stdout}')
    return 0


def build_parser() -> Parser:
    """Return the parser of the job's flags."""
    parser = Parser(
        prog='timm-debias submit',
        description='Submit a training run as a Slurm job. All other flags are those of train.py.',
    )
    add_flags(parser, SubmitConfig)
    return parser


def submit(config: SubmitConfig, training: Sequence[str]) -> Any:
    """Submit a run and return submitit's job.

    Args:
        config: What the job needs.
        training: Flags of train.py, `--experiment` and `--resume auto` among them.

    Raises:
        DebiasError: as in `main`.
    """
    check_job(config)
    check_training(training)
    if importlib.util.find_spec('submitit') is None:
        raise DebiasError("the package submitit is missing: pip install 'timm-debias[slurm]'")
    import submitit  # An optional package.

    slurm = {'partition': config.partition, 'account': config.account, 'qos': config.qos,
             'constraint': config.constraint}  # fmt: skip
    parameters = dict(
        name='timm-debias',
        nodes=config.nodes,
        tasks_per_node=max(config.gpus_per_node, 1),
        gpus_per_node=config.gpus_per_node,
        cpus_per_task=config.cpus_per_task,
        timeout_min=round(config.hours * 60),
        mem_gb=config.mem_gb,
        slurm_signal_delay_s=_SECONDS_TO_SAVE,
        **{f'slurm_{name}': value for name, value in slurm.items()},
    )
    with told_as('the job cannot be submitted', RuntimeError, ValueError, OSError, submitit.core.utils.FailedJobError):
        executor = submitit.AutoExecutor(Path(config.logs), cluster=config.cluster, slurm_max_num_timeout=_REQUEUES)
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        return executor.submit(Training(training))


def check_job(config: SubmitConfig) -> None:
    """Raise `DebiasError` for a job that Slurm could not start, or would stop before it has begun."""
    least = {'nodes': 1, 'gpus_per_node': 0, 'cpus_per_task': 1}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise DebiasError(f'--{name.replace("_", "-")} is {getattr(config, name)}; expected {value} or more')
    if config.mem_gb is not None and config.mem_gb <= 0:
        raise DebiasError(f'--mem-gb is {config.mem_gb:g}; expected more than 0')
    if config.hours * 3600 < 2 * _SECONDS_TO_SAVE:
        raise DebiasError(
            f'--hours is {config.hours:g}; expected {2 * _SECONDS_TO_SAVE / 3600:.2f} or more, as the job is told to '
            f'save {_SECONDS_TO_SAVE} s before its end'
        )


def check_training(training: Sequence[str]) -> None:
    """Raise `DebiasError` for what train.py would refuse, before a job waits for hours to find it out."""
    own = build_parser()._option_string_actions
    config: TrainConfig = config_from_args(parse_with_yaml(build_training_parser(own), training, same=DATA_FLAGS))
    if config.model.resume != 'auto' or not config.run.experiment:
        raise DebiasError('give train.py --experiment NAME and --resume auto, so that the job goes on where it was')
    # The machine that submits need not have a GPU.
    check_config(replace(config, device=replace(config.device, device='cpu')))


class Training:
    """What each process of a job does: run train.py, and at submitit's signal stop it so that it saves.

    train.py has a process of its own, because it and submitit handle signals each in their own way.

    Args:
        argv: Flags of train.py.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self.number = 0

    def __call__(self) -> int:
        """Train to the end and return 0.

        Raises:
            DebiasError: train.py ends otherwise.
        """
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        process = subprocess.Popen(
            [sys.executable, '-m', 'timm_debias.cli', 'train', *self.argv],
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # submitit's, which Slurm sends to all.
        )
        self.number = process.pid
        # Ended but not reaped, it keeps its number, by which `checkpoint` may signal and wait for it until here.
        os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOWAIT)
        self.number = 0
        code = process.wait()
        if code == 128 + signal.SIGUSR1:
            sys.exit(code)  # Another process was told to stop and puts the job back into the queue.
        if code:
            raise DebiasError(f'train.py ended with code {code}; see the log of this process')
        return code

    def checkpoint(self) -> Any:
        """Let train.py save and stop where it runs, and return what the job does when it is started again: the same."""
        from submitit.helpers import DelayedSubmission

        if self.number:
            os.kill(self.number, signal.SIGUSR1)
            # Not reaped: __call__, which this interrupts, has to find the process too.
            os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.argv))
