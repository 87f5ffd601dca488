"""Refuses, before any work is done, flags that cannot be meant; those of benchmarks are checked in `selection`."""

import os
from dataclasses import fields

from ..bounds import COUNT, IN_255, NOT_NEGATIVE, check_bounds
from ..checks import check_one_folder, check_preprocessing, check_seed
from ..data.factory import check_source
from ..errors import DebiasError
from ..files import check_output
from .combinations import check_combinations
from .config import ValidateConfig, ValidateDataConfig
from .many import names_many
from .model import check_model
from .selection import check_suite, check_wanted

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

_FIELDS = {
    COUNT: (
        'batch_size', 'img_size', 'input_size', 'num_classes', 'in_chans', 'num_samples', 'num_gpu',
        'naflex_max_seq_len', 'pgd_steps', 'pgd_restarts',
    ),
    NOT_NEGATIVE: ('workers', 'log_freq', 'crop_border_pixels', 'pgd_step_size'),
    IN_255: ('epsilons',),
}  # fmt: skip


def check_config(config: ValidateConfig) -> None:
    """Raise `DebiasError` for the first flag that is wrong or would have no effect."""
    if not config.suite.models and not names_many(config.model):
        check_model(config.model)
    _check_numbers(config)
    check_one_folder(config.data.data, config.data.data_dir)
    run = config.run
    for flag, path in (
        ('--class-map', config.data.class_map),
        ('--real-labels', config.data.real_labels),
        ('--valid-labels', config.data.valid_labels),
    ):
        if path and not os.path.isfile(path):
            raise DebiasError(f"{flag} '{path}': no such file")
    check_combinations(config)
    if run.amp_dtype != 'float16' and not run.amp:
        raise DebiasError('--amp-dtype is the precision of --amp, which is not given')
    if config.model.torchcompile_mode is not None and config.model.torchcompile is None:
        raise DebiasError('--torchcompile-mode is the mode of --torchcompile, which is not given')
    if config.suite.benchmarks:
        _check_no_data_flags(config)
    else:
        if run.results_file:
            _check_results_file(run.results_file)
        if run.results_format != 'csv' and not run.results_file:
            raise DebiasError('--results-format is the format of --results-file, which is not given')
    check_suite(config)
    check_wanted(config)
    if not config.suite.benchmarks:
        check_source(config.data.dataset, config.data.data_dir or config.data.data, config.data.split)


def _check_results_file(path: str) -> None:
    folder = os.path.dirname(path) or '.'
    if not os.path.isdir(folder):
        raise DebiasError(f"--results-file '{path}': no such folder")
    if os.path.isdir(path):
        raise DebiasError(f"--results-file '{path}' is a folder; name a file in it")
    check_output(folder, '--results-file')


def _check_numbers(config: ValidateConfig) -> None:
    model = config.model
    check_bounds(vars(config).values(), _FIELDS)
    channels = model.in_chans or (model.input_size or [3])[0]
    check_preprocessing(model.crop_pct, model.mean, model.std, channels)
    check_seed(config.run.seed)


def _check_no_data_flags(config: ValidateConfig) -> None:
    """Raise `DebiasError` for a flag of a data set of one's own."""
    default = ValidateConfig(*(type(part)() for part in vars(config).values()))
    for name, reason in _OWN_DATA_ONLY.items():
        for part, plain in ((config.data, default.data), (config.run, default.run), (config.model, default.model)):
            if getattr(part, name, None) != getattr(plain, name, None):
                raise DebiasError(f'--{name.replace("_", "-")} is for one data set of your own: {reason}')
    given = [
        field.name
        for field in fields(ValidateDataConfig)
        if getattr(config.data, field.name) != getattr(ValidateDataConfig(), field.name)
    ]
    if given:
        name = {'data': 'data-dir'}.get(given[0], given[0].replace('_', '-'))
        raise DebiasError(f'--{name} is for one data set of your own; --benchmarks looks below --data-root')
    if config.run.results_file or config.run.results_format != 'csv':
        raise DebiasError(
            '--results-file and --results-format are for one data set of your own; --benchmarks writes to --results-dir'
        )
    if config.run.no_prefetcher:
        raise DebiasError('--no-prefetcher is for one data set of your own; --benchmarks has a loader without one')
