"""The file of `--class-map`: which number each class has."""

from pathlib import Path
from typing import Any

from timm.data.readers.class_map import load_class_map

from ..errors import DebiasError
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
        names = read_text(Path(path)).split('\n') if path.lower().endswith('.txt') else []
        classes: Any = load_class_map(path)
    except Exception as error:  # A pickle that is none raises almost anything.
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DebiasError(f"--class-map '{path}': expected a text file with a class on each line, or a pickle of a "
                          f'dict with the number of each class ({reason})') from error  # fmt: skip
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not classes or '' in names:
        raise DebiasError(f"--class-map '{path}' has no class{' on one of its lines' if classes else ''}")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise DebiasError(f"--class-map '{path}' names '{twice}' twice")
    for name, number in classes.items():
        if not isinstance(name, (str, int)) or isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise DebiasError(f"--class-map '{path}': {name!r} has {number!r}; expected a class and a number from 0")
    return classes
