"""The flags of `train.py`, one frozen dataclass a concern; names and defaults are those of timm's train.py."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..checks import INTERPOLATIONS
from ..data.shards import starts_process
from ..flags import ParseKwargs, flag
from .config_faults import FaultsConfig
from .config_loaders import NaflexConfig, SizesConfig
from .config_task import DistillConfig, TaskConfig


@dataclass(frozen=True)
class DataConfig:
    """Dataset parameters"""

    data: str | None = flag(
        None, 'path to the data set (deprecated, use --data-dir)', 'data', nargs='?', metavar='DIR',
        executes=starts_process,
    )  # fmt: skip
    data_dir: str | None = flag(None, 'path to the data set (root folder)', metavar='DIR', executes=starts_process)
    dataset: str = flag('', 'type + name ("<type>/<name>"), or shapes_textures; image folder if empty', metavar='NAME')
    train_split: str = flag('train', 'split to train on', metavar='NAME', executes=starts_process)
    val_split: str = flag('validation', 'split to validate on; "" for none', metavar='NAME', executes=starts_process)
    train_num_samples: int | None = flag(None, 'number of samples of the training split', type=int, metavar='N')
    val_num_samples: int | None = flag(None, 'number of samples of the validation split', type=int, metavar='N')
    dataset_download: bool = flag(False, 'allow the download of torch/ and tfds/ data sets')
    class_map: str = flag('', 'path to class to index mapping file', metavar='FILENAME')
    input_img_mode: str | None = flag(None, 'image mode that inputs are converted to')
    input_key: str | None = flag(None, 'data set key of input images')
    target_key: str | None = flag(None, 'data set key of target labels')
    dataset_trust_remote_code: bool = flag(
        False, 'let Hugging Face data sets execute code of their repository', executes=bool
    )


@dataclass(frozen=True)
class ModelConfig:
    """Model parameters"""

    model: str = flag('resnet50', 'name of the timm model to train', metavar='MODEL')
    pretrained: bool = flag(False, 'start from pretrained weights, where there are some')
    pretrained_path: str | None = flag(None, 'checkpoint to load as if it were the pretrained weights, head adapted')
    pretrained_cfg_overlay: dict = flag({}, 'replaces keys of the pretrained cfg', nargs='*', action=ParseKwargs)
    initial_checkpoint: str = flag('', 'checkpoint to load into the model after it was made', metavar='PATH')
    freeze_backbone: bool = flag(False, 'train the classifier alone, on the features of pretrained weights')
    resume: str = flag(
        '', 'checkpoint to go on from; auto: the newest intact one of --experiment, if there is one', metavar='PATH'
    )
    no_resume_opt: bool = flag(False, "resume the model without the optimizer's state")
    num_classes: int | None = flag(None, "number of classes, the model's default if not given", type=int, metavar='N')
    gp: str | None = flag(None, "global pooling: fast, avg, max, avgmax; the model's default if not given")
    img_size: int | None = flag(None, "image size in pixels, the model's default if not given", type=int, metavar='N')
    in_chans: int | None = flag(None, 'number of input channels, 3 if not given', type=int, metavar='N')
    input_size: list[int] | None = flag(None, 'all input dimensions (C H W)', nargs=3, type=int, metavar='N')
    crop_pct: float | None = flag(None, 'share of the image in the centre crop, for validation', type=float)
    mean: list[float] | None = flag(None, 'mean pixel value of the data set', nargs='+', type=float)
    std: list[float] | None = flag(None, 'standard deviation of the data set', nargs='+', type=float)
    interpolation: str = flag(
        '', "interpolation of image resizing, the model's if empty", choices=['', *INTERPOLATIONS]
    )
    batch_size: int = flag(128, 'images in a batch; --debias adds as many stylised ones', '-b', '--batch-size')
    validation_batch_size: int | None = flag(
        None, 'images in a batch of validation', '-vb', '--validation-batch-size', type=int
    )
    channels_last: bool = flag(False, 'use channels_last memory layout')
    fuser: str = flag('', 'fuser of --torchscript', choices=['', 'te', 'old', 'legacy', 'nvfuser', 'nvf'])
    grad_accum_steps: int = flag(1, 'batches whose gradients make one update', metavar='N')
    grad_checkpointing: bool = flag(False, 'save memory by computing activations twice')
    fast_norm: bool = flag(False, 'experimental fast normalisation layers')
    model_kwargs: dict = flag({}, 'keyword arguments for the model, key=value', nargs='*', action=ParseKwargs)
    head_init_scale: float | None = flag(None, 'factor on the initial weights of the head', type=float)
    head_init_bias: float | None = flag(None, 'initial bias of the head', type=float)
    torchscript: bool = flag(False, 'compile with torch.jit.script')
    torchcompile: str | None = flag(None, 'compile with this backend', nargs='?', type=str, const='inductor')
    torchcompile_mode: str | None = flag(None, 'mode of torch.compile')


@dataclass(frozen=True)
class DeviceConfig:
    """Device parameters"""

    device: str = flag('cuda', 'device to train on: cuda, cpu, mps, …')
    amp: bool = flag(False, 'train in mixed precision')
    amp_dtype: str = flag('float16', 'lower precision of --amp', choices=['float16', 'bfloat16'])
    model_dtype: str | None = flag(None, 'dtype of the model', choices=['float32', 'float16', 'bfloat16'])
    no_ddp_bb: bool = flag(False, 'do not broadcast buffers in DDP')
    fsdp: bool = flag(
        False,
        'share weights, gradients and optimizer state out between processes (FSDP2), for models too large for one',
    )
    synchronize_step: bool = flag(False, 'wait for the device at the end of each update')
    local_rank: int = flag(0, 'given by old launchers; the environment variable LOCAL_RANK counts', '--local_rank')
    device_modules: list[str] | None = flag(
        None, 'Python modules to import for the device', nargs='+', metavar='NAME', executes=bool
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer parameters"""

    opt: str = flag('sgd', 'optimizer', metavar='OPTIMIZER')
    opt_eps: float | None = flag(None, "epsilon, the optimizer's default if not given", type=float)
    opt_betas: list[float] | None = flag(None, "betas, the optimizer's default if not given", nargs='+', type=float)
    momentum: float = flag(0.9, 'momentum')
    weight_decay: float = flag(2e-5, 'weight decay')
    clip_grad: float | None = flag(None, 'clip gradients at this value', type=float)
    clip_mode: str = flag('norm', 'what is clipped', choices=['norm', 'value', 'agc'])
    layer_decay: float | None = flag(None, 'factor on the learning rate from layer to layer', type=float)
    layer_decay_min_scale: float = flag(0, 'smallest factor of --layer-decay', type=float)
    layer_decay_no_opt_scale: float | None = flag(None, 'layers whose factor is below this are frozen', type=float)
    opt_kwargs: dict = flag({}, 'keyword arguments for the optimizer, key=value', nargs='*', action=ParseKwargs)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate schedule parameters"""

    sched: str = flag(
        'cosine', "schedule: timm's, or warmup_multistep, that of the paper's recipes", metavar='SCHEDULER'
    )
    sched_on_updates: bool = flag(False, 'step the schedule on updates instead of epochs')
    lr: float | None = flag(None, 'learning rate, overrides --lr-base unless it is 0', type=float)
    lr_base: float = flag(0.1, 'base learning rate: lr = lr_base · global batch size / lr_base_size')
    lr_base_size: int = flag(256, 'batch size that --lr-base stands for')
    lr_base_scale: str = flag('', "'linear' or 'sqrt', by the optimizer if empty", choices=['', 'linear', 'sqrt'])
    lr_noise: list[float] | None = flag(None, 'epochs between which the rate is noisy', nargs='+', type=float)
    lr_noise_pct: float = flag(0.67, 'limit of the noise')
    lr_noise_std: float = flag(1.0, 'standard deviation of the noise')
    lr_cycle_mul: float = flag(1.0, 'factor on the length of each cycle')
    lr_cycle_decay: float = flag(0.5, 'factor on the rate of each cycle')
    lr_cycle_limit: int = flag(1, 'number of cycles')
    lr_decay_fn: str | None = flag(
        None,
        'decay of wsd (1-sqrt if not given) and rsqrt (linear)',
        choices=['linear', '1-sqrt', 'cosine', 'power', 'exp'],
    )
    lr_stable_timescale: float | None = flag(
        None, 'timescale of rsqrt in epochs, that of the warm-up if not given', type=float
    )
    lr_k_decay: float = flag(1.0, 'k-decay of cosine and polynomial schedules')
    warmup_lr: float = flag(1e-5, 'learning rate that warm-up starts from')
    min_lr: float = flag(0, 'lowest learning rate of cyclic schedules', type=float)
    epochs: int = flag(300, 'number of epochs', metavar='N')
    stop_epoch: int | None = flag(None, 'stop after so many epochs of the schedule', type=int, metavar='N')
    epoch_repeats: float = flag(0.0, 'repetitions of the data in one epoch')
    start_epoch: int | None = flag(None, 'number of the first epoch, for restarts', type=int, metavar='N')
    decay_milestones: list[int] = flag([90, 180, 270], 'epochs at which multistep schedules decay', nargs='+', type=int)
    decay_epochs: float | None = flag(
        None, 'epochs between decays of step, 90 if not given; decay of wsd and rsqrt, 0.2 of all epochs', type=float
    )
    warmup_epochs: int = flag(5, 'epochs of warm-up')
    warmup_prefix: bool = flag(False, 'add the warm-up to the epochs of the schedule')
    cooldown_epochs: int = flag(0, 'epochs at the lowest rate, after a cyclic schedule')
    patience_epochs: int = flag(10, 'patience of the plateau schedule')
    decay_rate: float = flag(0.1, 'factor of each decay', '--decay-rate', '--dr')


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation and regularization parameters"""

    no_aug: bool = flag(False, 'switch all training augmentation off')
    train_crop_mode: str | None = flag(None, 'crop mode in training')
    scale: list[float] = flag([0.08, 1.0], 'range of the area of random crops', nargs='+', type=float)
    ratio: list[float] = flag([3 / 4, 4 / 3], 'range of the aspect ratio of random crops', nargs='+', type=float)
    hflip: float = flag(0.5, 'probability of a horizontal flip')
    vflip: float = flag(0.0, 'probability of a vertical flip')
    color_jitter: float = flag(0.4, 'strength of colour jitter')
    color_jitter_prob: float | None = flag(None, 'probability of colour jitter', type=float)
    grayscale_prob: float | None = flag(None, 'probability of a conversion to grey', type=float)
    gaussian_blur_prob: float | None = flag(None, 'probability of a Gaussian blur', type=float)
    aa: str | None = flag(None, 'auto-augment policy: "v0", "original", "rand-m9-n2-tstylize", …', metavar='NAME')
    aug_splits: int = flag(0, 'augment each image this often in a batch, as AugMix does; 0 or at least 2', metavar='N')
    aug_repeats: float = flag(0, 'repetitions of an image in one batch (distributed training only)', type=float)
    jsd_loss: bool = flag(False, 'short for --loss jsd')
    bce_loss: bool = flag(False, 'short for --loss bce')
    bce_sum: bool = flag(False, 'sum over classes in --loss bce')
    bce_target_thresh: float | None = flag(None, 'threshold that makes soft targets hard', type=float)
    bce_pos_weight: float | None = flag(None, 'weight of positives; old name of --loss-pos-weight', type=float)
    reprob: float = flag(0.0, 'probability of random erasing')
    remode: str = flag('pixel', 'what random erasing fills in', choices=['pixel', 'rand', 'const'])
    recount: int = flag(1, 'number of erased rectangles')
    resplit: bool = flag(False, 'leave the first split of the batch (see --aug-splits, or half) unerased')
    mixup: float = flag(0.0, 'alpha of Mixup, on if above 0')
    cutmix: float = flag(0.0, 'alpha of CutMix, on if above 0')
    cutmix_minmax: list[float] | None = flag(
        None, 'range of the size of CutMix, overrides alpha', nargs='+', type=float
    )
    mixup_prob: float = flag(1.0, 'probability of Mixup or CutMix')
    mixup_switch_prob: float = flag(0.5, 'probability of CutMix where both are on')
    mixup_mode: str = flag('batch', 'mix per batch, pair or elem', choices=['batch', 'pair', 'elem'])
    mixup_off_epoch: int = flag(0, 'epoch after which Mixup and CutMix are off', metavar='N')
    smoothing: float = flag(None, 'label smoothing, 0.1 if not given; 0 with --task multilabel', type=float)
    train_interpolation: str = flag(
        'random',
        'interpolation in training; random draws bilinear or bicubic, empty is --interpolation',
        choices=['', 'random', *INTERPOLATIONS],
    )
    drop: float = flag(0.0, 'dropout rate')
    drop_connect: float | None = flag(None, 'deprecated name of --drop-path', type=float)
    drop_path: float | None = flag(None, 'rate of stochastic depth', type=float)
    drop_block: float | None = flag(None, 'rate of drop-block', type=float)

    @property
    def mixup_active(self) -> bool:
        """Whether Mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    def mixup_kwargs(self, num_classes: int) -> dict[str, Any]:
        """Return the arguments of timm's Mixup, empty where neither Mixup nor CutMix is on."""
        if not self.mixup_active:
            return {}
        return dict(
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            cutmix_minmax=self.cutmix_minmax,
            prob=self.mixup_prob,
            switch_prob=self.mixup_switch_prob,
            mode=self.mixup_mode,
            label_smoothing=self.smoothing,
            num_classes=num_classes,
        )


@dataclass(frozen=True)
class NormConfig:
    """Batch norm parameters"""

    bn_momentum: float | None = flag(None, "batch norm momentum, the model's if not given", type=float)
    bn_eps: float | None = flag(None, "batch norm epsilon, the model's if not given", type=float)
    sync_bn: bool = flag(False, 'synchronise batch norm over processes')
    split_bn: bool = flag(False, 'a batch norm for each split of --aug-splits')
    dist_bn: str = flag('reduce', 'what is done to statistics after an epoch', choices=['', 'broadcast', 'reduce'])


@dataclass(frozen=True)
class EmaConfig:
    """Model exponential moving average parameters"""

    model_ema: bool = flag(False, 'track a moving average of the weights')
    model_ema_force_cpu: bool = flag(False, 'keep it on the CPU, unvalidated')
    model_ema_decay: float = flag(0.9998, 'decay')
    model_ema_warmup: bool = flag(False, 'warm the decay up')


@dataclass(frozen=True)
class RunConfig:
    """Miscellaneous parameters"""

    seed: int = flag(42, 'random seed', metavar='S')
    worker_seeding: str = flag('all', 'seeding of data workers; part is refused', choices=['all', 'part'])
    log_interval: int = flag(50, 'batches between two lines of the log', metavar='N')
    val_interval: int = flag(1, 'epochs between two validations and checkpoints', metavar='N')
    save_epochs: list[int] | None = flag(
        None, 'numbers of finished epochs after which milestone-N.pth.tar is saved', nargs='+', type=int, metavar='N'
    )
    recovery_interval: int = flag(
        0, 'updates between two checkpoints within epochs', '--recovery-interval', '--checkpoint-steps', metavar='N'
    )
    checkpoint_hist: int = flag(10, 'number of checkpoints to keep', metavar='N')
    workers: int = flag(4, 'data loading processes', '-j', '--workers', metavar='N')
    save_images: bool = flag(False, 'save a picture of a training batch at every line of the log; see --debias')
    pin_mem: bool = flag(False, 'pin memory for the transfer to the GPU')
    no_prefetcher: bool = flag(False, 'switch the prefetcher off')
    output: str = flag('', 'folder for runs, ./output/train if empty', metavar='PATH')
    experiment: str = flag('', 'name of the run and its folder, made up if empty', metavar='NAME')
    eval_metric: str = flag(
        None, 'metric that ranks checkpoints, top1 if not given; map with --task multilabel', type=str, metavar='NAME'
    )
    tta: int = flag(0, 'images that make one prediction in validation; refused above 1', metavar='N')
    use_multi_epochs_loader: bool = flag(False, 'keep workers over epochs; here they are kept but for streams')
    log_tensorboard: bool = flag(False, "log metrics to TensorBoard, in the run's folder")
    log_wandb: bool = flag(False, 'log metrics to Weights & Biases')
    wandb_project: str | None = flag(None, 'project there')
    wandb_tags: list[str] = flag([], 'tags of the run there', nargs='+')
    wandb_resume_id: str = flag('', 'run to go on with there; needs --resume', metavar='ID')


@dataclass(frozen=True)
class DebiasConfig:
    """Shape-texture debiased training"""

    debias: bool | None = flag(
        None,
        'train on stylised images too, with one label for shape and one for texture; --no-debias trains the baseline '
        'of a recipe, its flags of debiased training set aside',
        action=argparse.BooleanOptionalAction,
    )
    debias_mode: str = flag(
        'debiased',
        'debiased: --debias-gamma; shape: gamma 1; texture: gamma 0',
        choices=['debiased', 'shape', 'texture'],
    )
    debias_gamma: float = flag(0.8, "weight of the shape's label, in [0, 1]")
    debias_alpha: float = flag(0.5, 'strength of stylisation, in [0, 1]')
    debias_stylizer: str = flag('adain_lite', 'style transfer network', metavar='NAME')
    debias_stylizer_weights: str | None = flag(None, 'file or folder of its weights', metavar='PATH')
    debias_global_partners: bool = flag(
        False, 'draw partners from the batches of all processes, which exchange style statistics, not images'
    )
    no_debias_aux_bn: bool = flag(False, 'use the same batch norm for clean and stylised images')
    debias_multi_grid: bool = flag(False, 'stylise smaller images in most updates, as the paper does')
    debias_min_size: int | None = flag(
        None, 'smallest side with --debias-multi-grid, half of the image if not given', type=int, metavar='N'
    )
    debias_style_dir: str | None = flag(
        None, 'folder of textures or paintings to take styles from instead of the batch; gamma is 1 then', metavar='DIR'
    )

    @property
    def gamma(self) -> float:
        """Weight of the shape's label that the mode asks for; styles of a folder have no label."""
        if self.debias_style_dir is not None:
            return 1.0
        return {'debiased': self.debias_gamma, 'shape': 1.0, 'texture': 0.0}[self.debias_mode]


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on."""

    data: DataConfig
    model: ModelConfig
    device: DeviceConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    augment: AugmentConfig
    norm: NormConfig
    ema: EmaConfig
    run: RunConfig
    task: TaskConfig
    sizes: SizesConfig
    naflex: NaflexConfig
    distill: DistillConfig
    faults: FaultsConfig
    debias: DebiasConfig
