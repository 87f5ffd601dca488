"""The flags of `train.py` for images that cannot be read and for numbers that are not finite."""

from dataclasses import dataclass

from ..flags import flag


@dataclass(frozen=True)
class FaultsConfig:
    """Bad images and bad numbers"""

    on_bad_image: str = flag(
        'error',
        'what to do at an image that cannot be read: stop, leave it out of its batch, or train on another one',
        choices=['error', 'skip', 'replace'],
    )
    on_nonfinite: str = flag(
        'stop',
        'what to do at a loss or gradient that is NaN or infinite: stop, undo the update and go on, or not look at it '
        'and keep no copies of the weights for it',
        choices=['stop', 'skip', 'ignore'],
    )
