"""Which benchmarks a run measures, and where their folders are."""

from dataclasses import fields
from pathlib import Path

from ..errors import DebiasError, did_you_mean
from .benchmarks import Benchmark, get_benchmark, list_benchmarks
from .benchmarks.layout import find_folder
from .config import SuiteConfig, ValidateConfig
from .model_lists import parse_shard

_OWN_DATA_ONLY = {
    'real_labels': 'the benchmark imagenet-real has these labels',
    'valid_labels': 'benchmarks of some classes choose among these by themselves',
    'metrics_avg': 'each benchmark has measures of its own',
    'tf_preprocessing': 'each benchmark has preprocessing of its own',
    'naflex_loader': 'the benchmarks have images of one size',
    'num_gpu': 'start with torchrun, which shares the images among the GPUs',
    'test_pool': 'the crop is part of the protocol',
    'torchscript': '--torchcompile goes with it',
    'aot_autograd': '--torchcompile goes with it',
}
"""Flags of timm's validate.py that do not go with --benchmarks, and why."""


def check_suite(config: ValidateConfig) -> None:
    """Raise `DebiasError` for the first flag of the suite that is wrong."""
    suite, model = config.suite, config.model
    if not suite.benchmarks:
        given = [
            field.name
            for field in fields(SuiteConfig)
            if getattr(suite, field.name) != getattr(SuiteConfig(), field.name)
        ]
        if given:
            raise DebiasError(
                f'--{given[0].replace("_", "-")} is for the benchmarks of --benchmarks, and none is given; give '
                '--benchmarks NAMES or all'
            )
        return
    data, run = config.data, config.run
    for flag, given_too in (('--data-dir', data.data_dir or data.data), ('--dataset', data.dataset)):
        if given_too:
            raise DebiasError(f'{flag} is for one data set of your own; --benchmarks looks below --data-root')
    default = ValidateConfig(*(type(part)() for part in vars(config).values()))
    for name, reason in _OWN_DATA_ONLY.items():
        for part, plain in ((data, default.data), (run, default.run), (model, default.model)):
            if getattr(part, name, None) != getattr(plain, name, None):
                raise DebiasError(f'--{name.replace("_", "-")} is for one data set of your own: {reason}')
    if run.results_file:
        raise DebiasError('--results-file is for one data set of your own; --benchmarks writes to --results-dir')
    _check_models(config)
    if suite.resume and not suite.results_dir:
        raise DebiasError('--resume goes on with the results in --results-dir, and none is given')
    if (model.input_size or [3])[0] != 3 or (model.in_chans or 3) != 3:
        raise DebiasError('--in-chans and --input-size: the benchmarks have RGB images, 3 channels')
    if suite.data_root and not Path(suite.data_root).is_dir():
        raise DebiasError(f"--data-root '{suite.data_root}': no such folder")
    for flag, value, least in (
        ('--subset', suite.subset, 1),
        ('--pgd-steps', suite.pgd_steps, 1),
        ('--pgd-restarts', suite.pgd_restarts, 1),
        ('--pgd-step-size', suite.pgd_step_size, 0),
    ):
        if value is not None and not least <= value < float('inf'):
            raise DebiasError(f'{flag} is {value}; expected at least {least}')
    for epsilon in suite.epsilons or []:
        if not 0 <= epsilon <= 255:
            raise DebiasError(f'--epsilons: {epsilon:g} is no change of a pixel in units of 1/255; expected 0 to 255')
    wanted_benchmarks(suite)


def _check_models(config: ValidateConfig) -> None:
    suite = config.suite
    if suite.shard:
        parse_shard(suite.shard)
        if not suite.models:
            raise DebiasError('--shard takes some of the models of --models, and none are given')
    if suite.models and config.model.checkpoint:
        raise DebiasError(
            '--checkpoint is for one model; with --models, give a file with "model,checkpoint" on each line, or the '
            'folder of the checkpoints'
        )
    if suite.models and not suite.results_dir:
        raise DebiasError('--models writes a folder for each model below --results-dir, and none is given')


def wanted_benchmarks(suite: SuiteConfig) -> list[Benchmark]:
    """Return the benchmarks that `--benchmarks` names, those of the field for `all`: a folder of one's own is named.

    Raises:
        DebiasError: an unknown name.
    """
    if suite.benchmarks == 'all':
        benchmarks = [get_benchmark(name) for name in list_benchmarks()]
        return [benchmark for benchmark in benchmarks if benchmark.num_classes is not None]
    return [get_benchmark(name.strip()) for name in suite.benchmarks.split(',')]


def select(suite: SuiteConfig, num_classes: int) -> tuple[dict[Benchmark, dict[str, Path]], dict[str, str]]:
    """Return the benchmarks to measure with the folders they read, and those left out of `all` with the reason.

    Args:
        suite: The flags.
        num_classes: Number of classes of the model.

    Raises:
        DebiasError: unknown names, a folder that is missing, or a model of other classes.
    """
    placed = _placed_folders(suite)
    every = suite.benchmarks == 'all'
    selected: dict[Benchmark, dict[str, Path]] = {}
    absent: dict[str, str] = {}
    for benchmark in sorted(wanted_benchmarks(suite), key=lambda benchmark: benchmark.name):
        try:
            _check_classes(benchmark, num_classes)
            selected[benchmark] = {name: _find_root(suite, placed, benchmark, name) for name in benchmark.needs}
        except DebiasError as error:
            if not every:
                raise
            absent[benchmark.name] = str(error).partition(': ')[2].partition(';')[0]
    if not selected:
        raise DebiasError(f'no benchmark to measure: {"; ".join(f"{name}: {why}" for name, why in absent.items())}')
    return selected, absent


def _placed_folders(suite: SuiteConfig) -> dict[str, Path]:
    own = [name for name in list_benchmarks() if name in get_benchmark(name).needs]
    placed = {}
    for item in suite.benchmark_dir or []:
        name, separator, path = item.partition('=')
        if not separator or not path:
            raise DebiasError(f"--benchmark-dir '{item}': expected NAME=PATH")
        if not Path(path).is_dir():
            raise DebiasError(f"--benchmark-dir '{item}': no such folder")
        if name not in own:
            raise DebiasError(
                f"--benchmark-dir '{item}': no benchmark with a folder is '{name}'. {did_you_mean(name, own)}"
            )
        placed[name] = Path(path)
    return placed


def _check_classes(benchmark: Benchmark, num_classes: int) -> None:
    if benchmark.num_classes in (num_classes, None):
        return
    fitting = [name for name in list_benchmarks() if get_benchmark(name).num_classes == num_classes]
    advice = f'benchmarks for such a model: {", ".join(fitting)}' if fitting else 'no benchmark is for such a model'
    raise DebiasError(
        f'{benchmark.name}: made for models of {benchmark.num_classes:,} classes, this one has {num_classes:,}; '
        f'{advice}; for class folders of your own, see the benchmark folder, or give --data-dir without --benchmarks'
    )


def _find_root(suite: SuiteConfig, placed: dict[str, Path], benchmark: Benchmark, name: str) -> Path:
    """Return the folder `name` that a benchmark reads."""
    if name in placed:
        return placed[name]
    folders = get_benchmark(name).folders
    if not folders:
        raise DebiasError(f'{benchmark.name}: give its images by --benchmark-dir {name}=PATH')
    looked_for = f'looked for {", ".join(folders)}'
    place = f'give --benchmark-dir {name}=PATH where it lies elsewhere'
    if not suite.data_root:
        raise DebiasError(f'{benchmark.name}: no --data-root to find its images in; {place}')
    root = find_folder(Path(suite.data_root), folders)
    if root is None:
        raise DebiasError(
            f'{benchmark.name}: no folder of {name} in --data-root {suite.data_root}, {looked_for}; {place}'
        )
    return root
