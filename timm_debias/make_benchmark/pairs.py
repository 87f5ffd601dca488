"""Which image gets the texture of which."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import DebiasError
from .source import Source, generator_for


@dataclass(frozen=True)
class Pair:
    """An image to make: `content` gives the shape, `style` the texture; `target` is its path in the benchmark."""

    content: Path
    style: Path
    target: str


def stylized_pairs(source: Source, styles: Sequence[Path], seed: int) -> list[Pair]:
    """Pair every image with one of `styles`, or where there are none with an image of another class.

    The draw for an image depends on `seed` and its own path alone.

    Raises:
        DebiasError: no styles and one class only.
    """
    if not styles and len(source.classes) < 2:
        raise DebiasError(f'{source.root} has one class; textures of other classes need two, or give --style-dir')
    names, pairs, start = source.names, [], 0
    for files in source.classes.values():
        for image in names[start : start + len(files)]:
            rng = generator_for(seed, 'stylized', image)
            if styles:
                style = styles[int(rng.integers(len(styles)))]
            else:
                drawn = int(rng.integers(len(names) - len(files)))
                style = source.root / names[drawn if drawn < start else drawn + len(files)]
            pairs.append(Pair(source.root / image, style, str(PurePosixPath(image).with_suffix('.png'))))
        start += len(files)
    return pairs


def conflict_pairs(source: Source, per_pair: int, seed: int) -> list[Pair]:
    """Pair images of every class with images of every other class, `per_pair` times.

    Targets are named `<shape>/<shape>N-<texture>M.png` as the cue-conflict images of Geirhos et al. (ICLR 2019):
    image N of the shape's class, counted from 1 in the order of file
    names, with image M of the texture's. No image is used twice for a pair of classes while others are left.

    Raises:
        DebiasError: one class only, fewer than `per_pair` pairs of images, or class names that such file names
            would not tell apart.
    """
    if len(source.classes) < 2:
        raise DebiasError(f'{source.root} has one class; cue conflict needs two')
    _check_names(list(source.classes))
    pairs = []
    for shape, texture in itertools.permutations(source.classes, 2):
        contents, styles = source.classes[shape], source.classes[texture]
        if per_pair > len(contents) * len(styles):
            raise DebiasError(
                f'--per-pair is {per_pair}; {shape} ({len(contents)} images) and {texture} ({len(styles)}) have only '
                f'{len(contents) * len(styles)} different pairs'
            )
        rng = generator_for(seed, 'cue-conflict', shape, texture)
        first, second = rng.permutation(len(contents)).tolist(), rng.permutation(len(styles)).tolist()
        period = math.lcm(len(first), len(second))
        for number in range(per_pair):
            # Once all pairs of this step are used up, shift one list against the other.
            n, m = first[number % len(first)], second[(number + number // period) % len(second)]
            target = f'{shape}/{shape}{n + 1}-{texture}{m + 1}.png'
            pairs.append(Pair(source.root / shape / contents[n], source.root / texture / styles[m], target))
    return pairs


def _check_names(names: Sequence[str]) -> None:
    for one, other in itertools.permutations(names, 2):
        if re.fullmatch(r'\d+', other.removeprefix(one)) and other.startswith(one):
            raise DebiasError(
                f"the classes '{one}' and '{other}' could not be told apart in file names such as {one}1-…; rename one"
            )
