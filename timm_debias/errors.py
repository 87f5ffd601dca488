"""Errors that speak to the person at the command line."""

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator

_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ETIMEDOUT} | {
    getattr(errno, name) for name in ('ESTALE', 'EHOSTDOWN') if hasattr(errno, name)
}


class DebiasError(ValueError):
    """A mistake in what the user asked for: says what is wrong, where, and what to do.

    The command line prints it as one line and exits with code 2; in Python it is a `ValueError`.
    """


def reason(error: BaseException) -> str:
    """Return one line that says what an error says; the name of its class where it says nothing."""
    return ' '.join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def told_as(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Make errors of these kinds that a library raises in the `with` block a `DebiasError` that begins with `what`."""
    try:
        yield
    except DebiasError:
        raise  # It says all there is to say.
    except kinds as error:
        raise DebiasError(f'{what}: {reason(error)[:500]}') from error


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether an error says nothing about the file that was read.

    Too many open files, no memory, a file server that is gone: read again, the file may well be intact.
    """
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known names nearest to `name`, or all of them where none is near."""
    known = sorted(known)
    if words := near_names(name, known):
        return words
    if len(known) > 20:
        return ''
    return f'Known: {", ".join(known)}.'


def near_names(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known names nearest to `name`, empty where none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    return f'Did you mean {_enumerate(near)}?' if near else ''


def _enumerate(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f'{", ".join(quoted[:-1])} or {quoted[-1]}'
