"""Which benchmarks a run measures, and where their folders are."""

import re
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from ..errors import DebiasError, did_you_mean
from .benchmarks import Benchmark, get_benchmark, list_benchmarks
from .benchmarks.classes import imagenet_classes
from .benchmarks.layout import check_number, find_folder, own_classes
from .benchmarks.subset import parse_subset
from .config import SuiteConfig, ValidateConfig
from .model_lists import parse_shard


def check_suite(config: ValidateConfig) -> None:
    """Raise `DebiasError` for the first flag of the suite that is wrong; `check_wanted` looks at the data."""
    suite, model = config.suite, config.model
    if not suite.benchmarks:
        given = _given(suite)
        if given:
            raise DebiasError(
                f'--{given[0].replace("_", "-")} is for the benchmarks of --benchmarks, and none is given; give '
                '--benchmarks NAMES or all'
            )
        return
    _check_models(config)
    if suite.results_dir and Path(suite.results_dir).exists() and not Path(suite.results_dir).is_dir():
        raise DebiasError(f"--results-dir '{suite.results_dir}' is a file; expected a folder")
    if suite.resume and not suite.results_dir:
        raise DebiasError('--resume goes on with the results in --results-dir, and none is given')
    if (model.input_size or [3])[0] != 3 or (model.in_chans or 3) != 3:
        raise DebiasError('--in-chans and --input-size: the benchmarks have RGB images, 3 channels')
    if suite.data_root and not Path(suite.data_root).is_dir():
        raise DebiasError(f"--data-root '{suite.data_root}': no such folder")
    parse_subset(suite.subset, config.run.seed)
    for epsilon in suite.epsilons or []:
        if (suite.epsilons or []).count(epsilon) > 1:
            raise DebiasError(f'--epsilons names {epsilon:g} twice')
    _check_flags(suite)
    _placed_folders(suite)


def check_wanted(config: ValidateConfig) -> None:
    """Raise `DebiasError` where a benchmark that is named cannot be measured, as far as is known without the model."""
    suite = config.suite
    if not suite.benchmarks or suite.benchmarks == 'all':
        return
    placed, num_classes = _placed_folders(suite), config.model.num_classes
    for benchmark in wanted_benchmarks(suite):
        if num_classes is not None:
            _check_classes(benchmark, num_classes)
        roots = _find_roots(suite, placed, benchmark)
        # An empty folder may stand for one that is going to be made.
        if num_classes is not None and 'folder' in roots and (names := own_classes(roots['folder'])):
            check_number(roots['folder'], names, num_classes, benchmark.name)


def _check_flags(suite: SuiteConfig) -> None:
    """Raise `DebiasError` for a flag that none of the benchmarks heeds."""
    wanted = {flag for benchmark in wanted_benchmarks(suite) for flag in benchmark.flags}
    for flag in _given(suite):
        heeding = [name for name in list_benchmarks() if flag in get_benchmark(name).flags]
        if heeding and flag not in wanted:
            raise DebiasError(
                f'--{flag.replace("_", "-")} is for {", ".join(heeding)}; --benchmarks {suite.benchmarks} has none of '
                'these'
            )


def _given(suite: SuiteConfig) -> list[str]:
    """Return the fields that differ from their default."""
    return [field.name for field in fields(suite) if getattr(suite, field.name) != getattr(SuiteConfig(), field.name)]


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
        DebiasError: an unknown name, or one that is given twice.
    """
    if suite.benchmarks == 'all':
        benchmarks = [get_benchmark(name) for name in list_benchmarks()]
        return [benchmark for benchmark in benchmarks if benchmark.num_classes is not None]
    names = [name.strip() for name in suite.benchmarks.split(',')]
    if 'all' in names:
        raise DebiasError(f"--benchmarks {suite.benchmarks}: 'all' stands alone")
    for name in names:
        if names.count(name) > 1:
            raise DebiasError(f'--benchmarks names {name} twice')
    return [get_benchmark(name) for name in names]


def select(
    suite: SuiteConfig, num_classes: int, class_names: Sequence[str] = ()
) -> tuple[dict[Benchmark, dict[str, Path]], dict[str, str]]:
    """Return the benchmarks to measure with the folders they read, and those left out of `all` with the reason.

    Args:
        suite: The flags.
        num_classes: Number of classes of the model.
        class_names: Their names in their order, where the model tells them.

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
            _check_wnids(benchmark, class_names)
            selected[benchmark] = _find_roots(suite, placed, benchmark)
        except DebiasError as error:
            if not every:
                raise
            absent[benchmark.name] = str(error).partition(': ')[2].partition(';')[0]
    if not selected:
        names = {why: [name for name in absent if absent[name] == why] for why in absent.values()}
        reasons = '; '.join(f'{why} ({", ".join(group)})' for why, group in names.items())
        raise DebiasError(
            f'no benchmark to measure: {reasons}; for class folders of your own, see the benchmark folder, or give '
            '--data-dir without --benchmarks'
        )
    return selected, absent


def _placed_folders(suite: SuiteConfig) -> dict[str, Path]:
    own = [name for name in list_benchmarks() if name in get_benchmark(name).needs]
    placed: dict[str, Path] = {}
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


def _check_wnids(benchmark: Benchmark, class_names: Sequence[str]) -> None:
    """Raise `DebiasError` where the model says that its 1,000 classes are not those of ImageNet in their order."""
    expected = list(imagenet_classes())
    if benchmark.num_classes != len(expected) or not all(re.fullmatch(r'n\d{8}', name) for name in class_names):
        return
    for index, (found, wnid) in enumerate(zip(class_names, expected, strict=False)):
        if found != wnid:
            raise DebiasError(
                f'{benchmark.name}: made for the 1,000 classes of ImageNet sorted by wnid, and class {index} of this '
                f'model is {found} by the label_names of its configuration, expected {wnid}; give a model of these '
                'classes'
            )


def _find_roots(suite: SuiteConfig, placed: dict[str, Path], benchmark: Benchmark) -> dict[str, Path]:
    """Return the folders that a benchmark reads, and check that the package it needs is there."""
    if benchmark.package and find_spec(benchmark.package) is None:
        raise DebiasError(
            f'{benchmark.name}: the package {benchmark.package} is not installed (pip install '
            f"'timm-debias[{benchmark.extra}]')"
        )
    return {name: _find_root(suite, placed, benchmark, name) for name in benchmark.needs}


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
