"""The file of `--class-map`: which number each class has."""

from pathlib import Path
from typing import Any

from timm.data.readers.class_map import load_class_map

from ..errors import DebiasError, reason
from ..untrusted import read_text


def read_class_map(path: str) -> dict[Any, int]:
    """Return the number of each class by its name; or by the number that the data set has for it.

    Args:
        path: A text file with a class on each line, in the order of their numbers, or a pickle of a dict, from which
            nothing but plain values is made.

    Raises:
        DebiasError: the file cannot be read, holds something else, or does not give every class one number from 0.
    """
    try:
        classes: Any = _lines(Path(path)) if path.lower().endswith('.txt') else load_class_map(path)
    except DebiasError:
        raise
    except Exception as error:  # A pickle that is none raises almost anything.
        raise DebiasError(f"--class-map '{path}': expected a text file with a class on each line, or a pickle of a "
                          f'dict with the number of each class ({reason(error)})') from error  # fmt: skip
    if not classes:
        raise DebiasError(f"--class-map '{path}' has no class")
    for name, number in classes.items():
        if not isinstance(name, (str, int)) or isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise DebiasError(f"--class-map '{path}': {name!r} has {number!r}; expected a class and a number from 0")
    return classes


def _lines(path: Path) -> dict[str, int]:
    """Return the number of each class of a text file: that of its line, from 0."""
    names = [line.strip() for line in read_text(path).rstrip().split('\n')]
    classes: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name and len(names) > 1:
            raise DebiasError(f"--class-map '{path}' has an empty line, which would be a class")
        if name in classes:
            raise DebiasError(f"--class-map '{path}' names '{name}' twice")
        if name:
            classes[name] = number
    return classes
