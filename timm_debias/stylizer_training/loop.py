"""Trains a stylizer, with checkpoints it can go on from."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch

from ..errors import DebiasError
from ..files import atomic_path, write_text
from ..pictures import save_grid
from ..progress import duration
from ..stylizers import Stylizer, save_stylizer
from ..stylizers.weights import load_stylizer
from ..weight_files import load_state, load_torch_file
from .config import StylizerTrainConfig
from .data import Crops
from .figures import Batch, make_batch
from .measure import measure
from .objectives import Objective
from .texture import RandomTexture

_logger = logging.getLogger(__name__)

_WARMUP = 0.05
"""Share of the steps in which the learning rate rises."""

_PREVIEW_PAIRS = 6

_ENTRIES = {'config': dict, 'step': int, 'stylizer': dict, 'optimizer': dict, 'generator': torch.Tensor}
"""What a checkpoint holds."""

_FREE = ('resume', 'output', 'device', 'log_interval', 'checkpoint_interval')
"""Flags that may be others where a run goes on."""


class StylizerTrainer:
    """Adam with a cosine schedule over random crops; everything random comes from one generator.

    Args:
        config: Of the run.
        stylizer: Network to train, on the device of the run.
        objective: Its loss.
        crops: Images to train on.
        held_out: Images [N, 3, H, W] to measure on.
    """

    def __init__(
        self,
        config: StylizerTrainConfig,
        stylizer: Stylizer,
        objective: Objective,
        crops: Crops,
        held_out: torch.Tensor,
    ) -> None:
        self.config = config
        self.stylizer = stylizer
        self.objective = objective
        self.crops = crops
        self.held_out = held_out
        self.judge = RandomTexture(seed=config.seed + 1).to(config.device)
        self.parameters = [parameter for parameter in stylizer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.checkpoint = Path(config.output) / 'checkpoint.pth'

    def train(self) -> dict[str, float]:
        """Train to the last step, write the weights and metrics.json, and return the metrics."""
        config, start, first = self.config, time.monotonic(), self.step
        sums: dict[str, float] = {}
        summed = 0
        while self.step < config.steps:
            for name, value in self.update().items():
                sums[name] = sums.get(name, 0.0) + value
            summed += 1
            if self.step % config.log_interval == 0 or self.step == config.steps:
                left = (time.monotonic() - start) / (self.step - first) * (config.steps - self.step)
                terms = '  '.join(f'{name}: {value / summed:.4f}' for name, value in sums.items())
                _logger.info(f'Step {self.step}/{config.steps}  {terms}  left: {duration(left)}')
                sums, summed = {}, 0
            if self.step % config.checkpoint_interval == 0 or self.step == config.steps:
                self.save()
        return self.finish()

    def update(self) -> dict[str, float]:
        """Take one step and return the terms of its loss.

        Raises:
            DebiasError: the loss is not finite; the last checkpoint is as it was.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group['lr'] = config.lr * _schedule(self.step / config.steps)
        crops = self.crops.sample(config.batch_size, self.generator)
        batch = make_batch(crops, self.objective.figures(len(crops)), self.generator)
        losses = self.objective(Batch(*(tensor.to(config.device) for tensor in batch)))
        loss = torch.stack(list(losses.values())).sum()
        if not loss.isfinite():
            raise DebiasError(f'the loss is {loss.item()} at step {self.step}: try a lower --lr than {config.lr}')
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def save(self) -> None:
        """Write a checkpoint, atomically, and a picture of held-out pairs at three strengths."""
        state = {
            'config': vars(self.config),
            'step': self.step,
            'stylizer': self.stylizer.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'generator': self.generator.get_state(),
        }
        with atomic_path(self.checkpoint) as path:
            torch.save(state, path)
        self._save_picture()

    def load(self) -> None:
        """Go on from the checkpoint in the run's folder.

        Raises:
            DebiasError: no checkpoint, a torn one, or one of a run with other flags.
        """
        if not self.checkpoint.is_file():
            raise DebiasError(f'--resume: {self.checkpoint} does not exist')
        state: Any = load_torch_file(self.checkpoint)
        found = state if isinstance(state, dict) else {}
        if not all(isinstance(found.get(name), kind) for name, kind in _ENTRIES.items()):
            raise DebiasError(f'--resume: {self.checkpoint} is no checkpoint of train-stylizer')
        for name, value in state['config'].items():
            own = vars(self.config).get(name)
            if name not in _FREE and own != value:
                raise DebiasError(f'--resume: the run was started with --{name.replace("_", "-")} {value}, not {own}')
        self.step = state['step']
        load_state(self.stylizer, state['stylizer'], self.checkpoint)
        self.optimizer.load_state_dict(state['optimizer'])
        self.generator.set_state(state['generator'])

    def finish(self) -> dict[str, float]:
        """Write the weights and what they measure; the metrics are those of the weights as stored."""
        weights = self.checkpoint.parent / f'{self.stylizer.architecture}.safetensors'
        # Half precision keeps the file that ships in the package small; VGG-19's encoder stays exactly as it was.
        dtype = torch.float16 if self.config.stylizer == 'adain_lite' else torch.float32
        save_stylizer(self.stylizer, weights, dtype)
        load_stylizer(self.stylizer, weights)
        metrics = measure(self.stylizer.eval(), self.held_out, self.judge)
        write_text(weights.with_name('metrics.json'), json.dumps(metrics, indent=4) + '\n')
        return metrics

    @torch.no_grad()
    def _save_picture(self) -> None:
        content = self.held_out[:_PREVIEW_PAIRS]
        style = self.held_out.roll(-1, dims=0)[:_PREVIEW_PAIRS]
        columns = [content, style, *(self.stylizer(content, style, alpha) for alpha in (0.0, 0.5, 1.0))]
        titles = ['content', 'style', 'alpha 0', 'alpha 0.5', 'alpha 1']
        rows = [list(row) for row in zip(*columns, strict=True)]
        save_grid(rows, self.checkpoint.parent / 'preview.png', titles)


def _schedule(progress: float) -> float:
    """Return the factor on the learning rate: linear warm-up, then half a cosine to zero."""
    if progress < _WARMUP:
        return max(progress / _WARMUP, 0.01)
    return (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP))) / 2
