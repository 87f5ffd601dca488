"""Image files as they come in the wild, written by Pillow or byte by byte."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(size: tuple[int, int] = (40, 36), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of black pixels as far as its header: enough to be opened, and no more."""
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack('>I', 13) + header + struct.pack('>I', zlib.crc32(header))
    return b'\x89PNG\r\n\x1a\n' + chunk + struct.pack('>I', 1 << 20) + b'IDAT' + bytes(64)


def truncated(path: Path) -> None:
    picture().save(path)
    path.write_bytes(path.read_bytes()[:-900])


def deep(path: Path) -> None:
    Image.fromarray(np.arange(40 * 36, dtype=np.uint16).reshape(40, 36) * 40).save(path)


def missing(path: Path) -> None:
    path.symlink_to(path.with_name('nowhere.png'))


def loop(path: Path) -> None:
    path.symlink_to(path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    'empty': (lambda path: path.write_bytes(b''), 'cannot identify image file'),
    'truncated': (truncated, 'truncated'),
    'garbage': (lambda path: path.write_bytes(bytes(range(256)) * 9), 'cannot identify image file'),
    'bomb': (lambda path: path.write_bytes(png_header(30_000, 30_000)), 'decompression bomb'),
    'broken chunk': (lambda path: path.write_bytes(png_header(40, 36)), 'truncated|broken'),
    '16 bits': (deep, '16 bits'),
    'missing': (missing, 'No such file'),
    'link to itself': (loop, 'symbolic links'),
    'folder': (lambda path: path.mkdir(), 'directory'),
}
"""Kind -> (writes the file, what the reason says)."""
