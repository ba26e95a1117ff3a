"""Parsers of the binary formats in which MNIST (gzip idx) and CIFAR-10 (tar.gz) are published.

Files are parsed in memory and never unpickled or unpacked to disk. Every way in which a file can be
wrong ends in one :class:`DataError` that names it.
"""

import gzip
import math
import tarfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from curvlab.core.errors import CurvlabError

_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + math.prod(_CIFAR_SHAPE)
_BROKEN = (EOFError, OSError, zlib.error, tarfile.TarError)


class DataError(CurvlabError, ValueError):
    """A data set that is missing, damaged or smaller than what was asked of it."""


def _damaged(path: Path, expected: str, found: str) -> DataError:
    return DataError(
        f"Cannot read {path}: expected {expected}, found {found}. Delete the file so that it is "
        "fetched again, or replace it with an intact copy."
    )


def read_idx(path: Path, rank: int) -> UInt8[np.ndarray, "..."]:
    """Read a gzip-compressed idx file of unsigned bytes.

    Parameters
    ----------
    path
        A file such as ``train-images-idx3-ubyte.gz``.
    rank
        Number of axes: 3 for images, 1 for labels.

    Raises
    ------
    DataError
        If the file is missing, truncated, or not an idx file of that rank.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"Cannot read {path}: there is no such file. Put it there, or leave the directory out "
            "so that it is downloaded."
        ) from error
    except _BROKEN as error:
        raise _damaged(path, "a complete gzip file", f"{error}") from error
    magic, header = bytes((0, 0, 0x08, rank)), 4 + 4 * rank
    if data[:4] != magic or len(data) < header:
        raise _damaged(
            path, f"an idx file of bytes (magic {magic.hex()})", f"magic {data[:4].hex() or 'none'}"
        )
    shape = tuple(np.frombuffer(data, ">u4", count=rank, offset=4).tolist())
    if len(data) - header != math.prod(shape):
        raise _damaged(
            path, f"{math.prod(shape)} bytes for shape {shape}", f"{len(data) - header} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_cifar(
    path: Path, members: tuple[str, ...]
) -> tuple[UInt8[np.ndarray, "examples 32 32 3"], UInt8[np.ndarray, " examples"]]:
    """Read batches from the tar.gz of CIFAR-10's binary version.

    Each record is one label byte and 3,072 pixel bytes (channel, row, column).

    Parameters
    ----------
    path
        A file such as ``cifar-10-binary.tar.gz``.
    members
        File names of the batches inside, without their folder.

    Returns
    -------
    tuple
        Images with the channel last, and labels 0 to 9.

    Raises
    ------
    DataError
        If the file is missing, truncated, lacks a batch, or holds something else.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                content = archive.extractfile(member) if name in members else None
                if content is not None:
                    found[name] = content.read()
    except FileNotFoundError as error:
        raise DataError(
            f"Cannot read {path}: there is no such file. Put it there, or leave the directory out "
            "so that it is downloaded."
        ) from error
    except _BROKEN as error:
        raise _damaged(path, "a complete tar.gz archive", f"{error}") from error
    missing = [name for name in members if name not in found]
    if missing:
        raise _damaged(path, f"members {', '.join(members)}", f"no {', '.join(missing)}")
    for name, content in found.items():
        if not content or len(content) % _CIFAR_RECORD:
            raise _damaged(
                path, f"{name} in records of {_CIFAR_RECORD} bytes", f"{len(content)} bytes"
            )
    data = np.frombuffer(b"".join(found[name] for name in members), np.uint8)
    records = data.reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise _damaged(path, "labels from 0 to 9", f"label {labels.max()}")
    return records[:, 1:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1), labels
