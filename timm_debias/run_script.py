"""The command `timm-debias run`: a copy of timm's own train.py, with shape-texture debiased training plugged in.

The script is loaded as a module, not changed: its parser gets the flags of `--debias`, and three names in its namespace
stand for ours when they are on, `ClassificationTask`, `create_loader` and `create_optimizer_v2`. Everything else, from
the data to the checkpoints, is the script's.
"""

import argparse
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timm.task.classification import resolve_classification_loss
from torch import nn

from .errors import DebiasError, reason
from .flags import Parser, add_flags, config_from
from .normalize import Normalize
from .task import DebiasTask, create_debias_task
from .training.checks import check_debias
from .training.config import DebiasConfig
from .training.main import build_parser, config_from_args

_USES = ('parser', 'main', 'ClassificationTask', 'create_loader', 'create_optimizer_v2')
"""What a script has to have in its namespace."""

_REFUSED = {
    'mixup': 'the script mixes images in its loader, before they could be stylised',
    'cutmix': 'the script mixes images in its loader, before they could be stylised',
    'cutmix_minmax': 'the script mixes images in its loader, before they could be stylised',
    'reprob': 'the script erases parts of the images in its loader, before they could be stylised',
}
"""Flags of the script that do not go with --debias in its hands, besides those that `timm-debias train` refuses."""

_HONOURED = (
    'debias',
    'debias_mode',
    'debias_gamma',
    'debias_alpha',
    'debias_stylizer',
    'debias_stylizer_weights',
    'no_debias_aux_bn',
)
"""Flags of ours that the task alone can do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script that the first argument names with all others; returns the exit code.

    Raises:
        DebiasError: no script of timm's kind, or flags that do not go with `--debias`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0].startswith('-'):
        _build_parser().parse_args(argv)
        raise DebiasError('the first argument is the path of the script: timm-debias run PATH/TO/train.py …')
    path, rest = Path(argv[0]), argv[1:]
    with _as_script(path, rest) as script:
        _Plug(script).connect()
        script.main()
    return 0


def _build_parser() -> Parser:
    """Return the parser that shows the help; the script has one of its own."""
    parser = Parser(
        prog='timm-debias run',
        description="Run a copy of timm's own train.py, with debiased training where --debias is given. "
        "The script's own flags follow its path: timm-debias run PATH/TO/train.py --help lists all.",
    )
    parser.add_argument('script', metavar='PATH/TO/train.py', help="timm's script, of timm 1.0.28 or newer")
    add_flags(parser, DebiasConfig)
    return parser


@contextmanager
def _as_script(path: Path, argv: Sequence[str]) -> Iterator[Any]:
    """Load the script as Python would run it: arguments, module path, and a name that its classes are found by."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise DebiasError(f"'{path}' is no Python script")
    script = importlib.util.module_from_spec(spec)
    before = sys.argv, sys.path[:], sys.modules.get(path.stem)
    sys.argv = [str(path), *argv]
    sys.path.insert(0, os.fspath(path.resolve().parent))
    sys.modules[path.stem] = script
    try:
        _load(script, spec.loader, path)
        yield script
    finally:
        sys.argv, sys.path[:] = before[0], before[1]
        sys.modules.pop(path.stem, None)
        if before[2] is not None:
            sys.modules[path.stem] = before[2]


def _load(script: ModuleType, loader: Any, path: Path) -> None:
    try:
        loader.exec_module(script)
    except (ImportError, SyntaxError) as error:
        raise DebiasError(f'{path} does not load with the packages here: {reason(error)}') from error
    missing = [name for name in _USES if not hasattr(script, name)]
    if missing:
        raise DebiasError(
            f"{path} has no {', '.join(missing)}: expected timm's train.py of timm 1.0.28 or newer, or a copy that "
            "keeps its parser, its main() and the names it imports from timm; timm-debias train has timm's flags too"
        )


class _Plug:
    """Plugs debiased training into a script, in its namespace alone.

    Args:
        script: The loaded module.
    """

    def __init__(self, script: Any) -> None:
        self.script = script
        self.args = argparse.Namespace()
        self.task: DebiasTask | None = None
        self.normalize: Normalize | None = None

    def connect(self) -> None:
        """Give the script's parser the flags of `--debias`, and look at what it parses."""
        parser = self.script.parser
        add_flags(parser, DebiasConfig)
        parse_args = parser.parse_args

        def parse_and_plug(*args: Any, **options: Any) -> argparse.Namespace:
            parsed = parse_args(*args, **options)
            self._plug(parsed)
            return parsed

        parser.parse_args = parse_and_plug

    def _plug(self, args: argparse.Namespace) -> None:
        """Check the flags, and with `--debias` take the place of what the script imports from timm.

        Raises:
            DebiasError: flags that do not go together.
        """
        self.args = args
        config = config_from_args(_as_ours(args))
        check_debias(config)
        if not args.debias:
            return
        for name, value in vars(config.debias).items():
            if name not in _HONOURED and value != getattr(DebiasConfig(), name):
                raise DebiasError(f'--{name.replace("_", "-")} needs a training loop of ours: timm-debias train')
        for name, why in _REFUSED.items():
            if getattr(args, name, None):
                flag = f'--{name.replace("_", "-")}'
                raise DebiasError(f'{flag} does not go with --debias here: {why}; see timm-debias train')
        script = self.script
        self._create_loader, self._create_optimizer = script.create_loader, script.create_optimizer_v2
        script.ClassificationTask = self.create_task
        script.create_loader = self.create_loader
        script.create_optimizer_v2 = self.create_optimizer

    def create_task(
        self,
        model: nn.Module,
        criterion: nn.Module | None = None,
        criterion_kwargs: dict[str, Any] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> DebiasTask:
        """Create our task where the script creates timm's `ClassificationTask`; the arguments are that one's."""
        config = config_from(DebiasConfig, self.args)
        loss: Any = resolve_classification_loss(
            criterion, device or torch.device('cpu'), criterion_kwargs=criterion_kwargs
        )
        self.task = create_debias_task(
            model,
            config.debias_stylizer,
            config.debias_stylizer_weights,
            gamma=config.gamma,
            alpha=config.debias_alpha,
            aux_bn=not config.no_debias_aux_bn,
            base_loss=loss,
            generator=torch.Generator().manual_seed(self.args.seed + getattr(self.args, 'rank', 0)),
            device=device,
            dtype=dtype,
            verbose=verbose,
        )
        self._give_normalisation()
        return self.task

    def create_loader(self, *args: Any, **options: Any) -> Any:
        """Create timm's loader, and take the normalisation of the training images from it."""
        bound = inspect.signature(self._create_loader).bind(*args, **options)
        bound.apply_defaults()
        if bound.arguments['is_training']:
            self.normalize = Normalize(bound.arguments['mean'], bound.arguments['std'])
            self._give_normalisation()
        return self._create_loader(*args, **options)

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        """Create timm's optimizer, once the model has all its parameters and the task all it needs.

        Raises:
            DebiasError: a script that makes its optimizer before its task or its training loader.
        """
        if self.task is None or self.normalize is None:
            raise DebiasError(
                'the script creates its optimizer before its ClassificationTask or its training loader, so parameters '
                'of the auxiliary batch norm or the normalisation of the images would be missing; use timm-debias train'
            )
        return self._create_optimizer(*args, **options)

    def _give_normalisation(self) -> None:
        if self.task is not None and self.normalize is not None:
            self.task.normalize = self.normalize.to(self.task.device)


def _as_ours(args: argparse.Namespace) -> argparse.Namespace:
    """Return the flags of `timm-debias train` with the values of the script's, to check them by the same rules."""
    ours = build_parser().parse_args([])
    for name in vars(ours):
        setattr(ours, name, getattr(args, name, getattr(ours, name)))
    return ours
