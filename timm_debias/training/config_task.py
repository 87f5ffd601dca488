"""The flags of `train.py` that say what is learned, and from whom; names and defaults are those of timm's train.py."""

from dataclasses import dataclass

from ..flags import flag


@dataclass(frozen=True)
class TaskConfig:
    """Task and loss parameters"""

    task: str = flag('classification', 'one label an image, or any number', choices=['classification', 'multilabel'])
    target_format: str | None = flag(
        None, 'labels of --task multilabel, indices if not given', choices=['indices', 'multihot']
    )
    multilabel_threshold: float = flag(0.5, 'probability above which a label of --task multilabel counts as given')
    loss: str | None = flag(
        None,
        'ce if not given, bce with --task multilabel',
        choices=['ce', 'bce', 'asl', 'poly', 'jsd', 'twoway', 'zlpr', 'db'],
    )
    loss_class_weight: str | None = flag(
        None, 'weights of the classes: inv_freq, effective_num, numbers with commas, or a file', metavar='W'
    )
    loss_pos_weight: str | None = flag(
        None, 'weights of positives: neg_pos, numbers with commas, or a file', metavar='W'
    )
    loss_weight_power: float = flag(1.0, 'exponent of neg_pos and inv_freq')
    class_stats: str = flag('', "JSON of class counts, written by timm's class_weights.py", metavar='FILENAME')
    poly_epsilon: float = flag(2.0, 'coefficient of --loss poly')
    poly_gamma: float = flag(0.0, 'focusing of --loss poly, with --task multilabel')

    @property
    def multilabel(self) -> bool:
        """Whether an image has any number of labels."""
        return self.task == 'multilabel'


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation parameters"""

    kd_model_name: str | None = flag(None, 'timm model to learn from, its weights pretrained', metavar='MODEL')
    kd_distill_type: str = flag('logit', 'what is learned from it', choices=['logit', 'feature', 'token'])
    kd_loss_type: str = flag('kl', 'loss of --kd-distill-type logit', choices=['kl'])
    distill_loss_weight: float | None = flag(None, 'weight of the distillation loss', type=float)
    task_loss_weight: float | None = flag(
        None, 'weight of the classification loss; given alone, the other has 1 minus it', type=float
    )
    kd_temperature: float = flag(4.0, 'temperature of the softmax')
    kd_student_feature_dim: int | None = flag(None, "width of the model's features", type=int)
    kd_teacher_feature_dim: int | None = flag(None, "width of the teacher's features", type=int)
    kd_token_distill_type: str = flag(
        'soft', "learn the teacher's probabilities or its decision", choices=['soft', 'hard']
    )
