"""A truth value for each image, as text for JSON."""

import numpy as np


def pack(values: np.ndarray) -> str:
    """Return bool values [N] as hexadecimal digits, four values a digit, the last byte filled up with zeros."""
    return np.packbits(values).tobytes().hex()


def unpack(text: str, length: int) -> np.ndarray:
    """Return bool values [length] from what `pack` gave.

    Raises:
        ValueError: the text is not that of so many values.
    """
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-length // 8):
        raise ValueError(f'{len(packed)} bytes hold no {length} values')
    return np.unpackbits(packed, count=length).astype(bool)
