"""Builds timm's knowledge distillation tasks."""

from typing import Any

from timm.task import FeatureDistillationTask, LogitDistillationTask, TokenDistillationTask
from timm.task.task import TrainingTask
from torch import nn

from ..errors import DebiasError, reason
from .config_task import DistillConfig


def build_distillation_task(
    options: DistillConfig, model: nn.Module, criterion: nn.Module, **common: Any
) -> TrainingTask:
    """Create the task that `--kd-distill-type` names; the teacher is created with its pretrained weights.

    Args:
        options: The flags.
        model: The student.
        criterion: Loss on the labels.
        common: device, dtype and verbose of timm's tasks.

    Raises:
        DebiasError: a teacher without weights at hand, or of another kind than the distillation needs.
    """
    common |= dict(
        student_model=model,
        teacher_model=options.kd_model_name,
        criterion=criterion,
        distill_loss_weight=options.distill_loss_weight,
        task_loss_weight=options.task_loss_weight,
    )
    try:
        if options.kd_distill_type == 'feature':
            return FeatureDistillationTask(
                student_feature_dim=options.kd_student_feature_dim,
                teacher_feature_dim=options.kd_teacher_feature_dim,
                **common,
            )
        if options.kd_distill_type == 'token':
            return TokenDistillationTask(
                distill_type=options.kd_token_distill_type, temperature=options.kd_temperature, **common
            )
        return LogitDistillationTask(loss_type=options.kd_loss_type, temperature=options.kd_temperature, **common)
    except Exception as error:  # Model code and hub clients raise almost anything; all of it is about these flags.
        why = reason(error)[:300]
        raise DebiasError(
            f'--kd-model-name {options.kd_model_name} with --kd-distill-type {options.kd_distill_type}: {why}'
        ) from error
