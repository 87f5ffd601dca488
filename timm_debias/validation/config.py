"""The flags of `validate.py`, one frozen dataclass a concern; names and defaults are those of timm's validate.py."""

from dataclasses import dataclass

from ..checks import INTERPOLATIONS
from ..data.shards import starts_process
from ..flags import ParseKwargs, flag


@dataclass(frozen=True)
class ValidateDataConfig:
    """Dataset parameters"""

    data: str | None = flag(
        None, 'path to the data set (deprecated, use --data-dir)', 'data', nargs='?', metavar='DIR',
        executes=starts_process,
    )  # fmt: skip
    data_dir: str | None = flag(None, 'path to the data set (root folder)', metavar='DIR', executes=starts_process)
    dataset: str = flag('', 'type + name ("<type>/<name>"), or shapes_textures; image folder if empty', metavar='NAME')
    split: str = flag('validation', 'split to measure', metavar='NAME', executes=starts_process)
    num_samples: int | None = flag(None, 'number of samples of the split', type=int, metavar='N')
    dataset_download: bool = flag(False, 'allow the download of torch/ and tfds/ data sets')
    class_map: str = flag('', 'path to class to index mapping file', metavar='FILENAME')
    input_key: str | None = flag(None, 'data set key of input images')
    input_img_mode: str | None = flag(None, 'image mode that inputs are converted to')
    target_key: str | None = flag(None, 'data set key of target labels')
    dataset_trust_remote_code: bool = flag(
        False, 'let Hugging Face data sets execute code of their repository', executes=bool
    )
    tf_preprocessing: bool = flag(False, 'preprocess as TensorFlow does, by TensorFlow')
    real_labels: str = flag('', 'JSON of labels by ImageNet ReaL, which then count', metavar='FILENAME')
    valid_labels: str = flag('', 'text file of class indices, to decide among these alone', metavar='FILENAME')
    naflex_loader: bool = flag(False, 'give a NaFlex model images of their own aspect ratio')
    naflex_max_seq_len: int = flag(576, 'sequence length of --naflex-loader')


@dataclass(frozen=True)
class ValidateModelConfig:
    """Model parameters"""

    model: str = flag(
        'dpn92', 'name of the timm model; a wildcard, all, or a file of names for many', '--model', '-m', metavar='NAME'
    )
    pretrained: bool = flag(False, 'use pretrained weights; the default without --checkpoint')
    checkpoint: str = flag('', 'checkpoint to measure, or a folder of them', metavar='PATH')
    use_ema: bool = flag(False, 'use the moving average of the checkpoint')
    num_classes: int | None = flag(None, "number of classes, the model's default if not given", type=int)
    gp: str | None = flag(None, "global pooling; the model's default if not given", metavar='POOL')
    img_size: int | None = flag(None, "image size in pixels, the model's default if not given", type=int, metavar='N')
    in_chans: int | None = flag(None, 'number of input channels, 3 if not given', type=int, metavar='N')
    input_size: list[int] | None = flag(None, 'all input dimensions (C H W)', nargs=3, type=int, metavar='N')
    use_train_size: bool = flag(False, 'use the size of training where the model names another one for tests')
    crop_pct: float | None = flag(None, 'share of the image in the centre crop', type=float, metavar='N')
    crop_mode: str | None = flag(None, 'crop mode', choices=['squash', 'border', 'center'])
    crop_border_pixels: int | None = flag(None, 'pixels to crop from the border', type=int)
    mean: list[float] | None = flag(None, 'mean pixel value of the data set', nargs='+', type=float)
    std: list[float] | None = flag(None, 'standard deviation of the data set', nargs='+', type=float)
    interpolation: str = flag(
        '', "interpolation of image resizing, the model's if empty", choices=['', *INTERPOLATIONS]
    )
    test_pool: bool = flag(False, 'pool at the size of training where the input is larger, and average the outputs')
    fuser: str = flag('', 'fuser of --torchscript', choices=['', 'te', 'old', 'legacy', 'nvfuser', 'nvf'])
    fast_norm: bool = flag(False, 'experimental fast normalisation layers')
    reparam: bool = flag(False, 'reparameterise the model')
    model_kwargs: dict = flag({}, 'keyword arguments for the model, key=value', nargs='*', action=ParseKwargs)
    torchscript: bool = flag(False, 'compile with torch.jit.script')
    aot_autograd: bool = flag(False, 'compile with functorch.compile.memory_efficient_fusion')
    torchcompile: str | None = flag(None, 'compile with this backend', nargs='?', type=str, const='inductor')
    torchcompile_mode: str | None = flag(None, 'mode of torch.compile')


@dataclass(frozen=True)
class ValidateRunConfig:
    """Miscellaneous parameters"""

    workers: int = flag(4, 'data loading processes', '-j', '--workers', metavar='N')
    batch_size: int = flag(256, 'images in a batch', '-b', '--batch-size', metavar='N')
    log_freq: int = flag(10, 'batches between two lines of the log', metavar='N')
    num_gpu: int = flag(1, 'GPUs to share each batch', metavar='N')
    no_prefetcher: bool = flag(False, 'switch the prefetcher off')
    pin_mem: bool = flag(False, 'pin memory for the transfer to the GPU')
    channels_last: bool = flag(False, 'use channels_last memory layout')
    device: str = flag('cuda', 'device: cuda, cpu, mps, …')
    amp: bool = flag(False, 'mixed precision')
    amp_dtype: str = flag('float16', 'lower precision of --amp', choices=['float16', 'bfloat16'])
    model_dtype: str | None = flag(None, 'dtype of the model', choices=['float32', 'float16', 'bfloat16'])
    retry: bool = flag(False, 'halve the batch where memory runs out, and try again; always on with --models')
    seed: int = flag(42, 'random seed', metavar='S')
    metrics_avg: str | None = flag(
        None, 'also precision, recall and F1, averaged so over the classes', choices=['micro', 'macro', 'weighted']
    )
    results_file: str = flag('', 'file for the results', metavar='FILENAME')
    results_format: str = flag('csv', 'format of --results-file', choices=['csv', 'json'])


@dataclass(frozen=True)
class SuiteConfig:
    """Benchmarks of the field"""

    benchmarks: str = flag('', 'benchmarks to measure, separated by commas, or all that are there', metavar='NAMES')
    list_benchmarks: bool = flag(False, 'print a table of the benchmarks and stop')
    data_root: str = flag('', "folder that holds the benchmarks' folders under their usual names", metavar='DIR')
    benchmark_dir: list[str] | None = flag(
        None,
        'folder of a benchmark that lies elsewhere; repeatable, and of two for one benchmark the last counts',
        nargs='+',
        action='extend',
        metavar='NAME=PATH',
    )
    allow_partial: bool = flag(False, 'accept benchmarks of which classes or images are missing; the results say so')
    subset: str = flag(
        '',
        'reduced imagenet-c, folder-c and attacks: a number of images of each folder, drawn by --seed, or a text file '
        "that lists them, such as RobustBench's imagenet_test_image_ids.txt",
        metavar='N|FILE',
    )
    on_error: str = flag('stop', 'what to do at an image that cannot be read', choices=['stop', 'skip'])
    results_dir: str = flag('', 'folder for the results, part by part, and for results.json, .csv and .md')
    resume: bool = flag(False, 'go on with the results in --results-dir')
    models: str = flag(
        '',
        'many models: a file with "model" or "model,checkpoint" on each line, a wildcard for pretrained models, all, '
        'or a folder of checkpoints of --model; each goes to a folder of its own in --results-dir',
        metavar='FILE|WILDCARD|all|DIR',
    )
    shard: str = flag('', 'of --models, take every n-th from the i-th, counted from 1: for job arrays', metavar='I/N')
    epsilons: list[float] | None = flag(
        None,
        'largest changes of a pixel by attacks, in 1/255; if not given, 16 for fgsm and fgsm-ref, 4 for pgd and '
        'autoattack',
        nargs='+',
        type=float,
        metavar='E',
    )
    pgd_steps: int = flag(10, 'steps of pgd', metavar='N')
    pgd_step_size: float | None = flag(None, 'step of pgd in 1/255; 2.5 · epsilon / steps if not given', type=float)
    pgd_restarts: int = flag(1, 'random starts of pgd', metavar='N')


@dataclass(frozen=True)
class ValidateConfig:
    """Everything a measurement depends on."""

    data: ValidateDataConfig
    model: ValidateModelConfig
    run: ValidateRunConfig
    suite: SuiteConfig
