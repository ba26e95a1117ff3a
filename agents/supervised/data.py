"""Image data sets: digits (bundled with scikit-learn), MNIST and CIFAR-10.

`load` returns the examples a run trains on; `fetch` makes sure beforehand that the files are there.
Files are downloaded once into a cache, checked against their published checksums; given a
directory, they are read from it and nothing is downloaded.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from agents.supervised.formats import DataError, read_cifar, read_idx
from curvlab.core.errors import UnknownNameError

# Which examples are used, and in which order, is the same for every run and seed.
_SHUFFLE_SEED = 0


@dataclass(frozen=True, eq=False)
class Images:
    """Images with pixels in a small range around [0, 1], and their true labels."""

    inputs: Float[np.ndarray, "examples height width channels"] = field(repr=False)
    labels: Int[np.ndarray, " examples"] = field(repr=False)
    classes: int = 10


@dataclass(frozen=True)
class _DataSet:
    read: Callable[[Path], Images]
    files: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


def _digits(_: Path) -> Images:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.asarray(bunch.images, np.float32)[..., None] / np.float32(16)
    return Images(images, np.asarray(bunch.target, np.int32))


def _mnist(folder: Path) -> Images:
    images = read_idx(folder / "train-images-idx3-ubyte.gz", rank=3)
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz", rank=1)
    if len(images) != len(labels):
        raise DataError(
            f"Cannot use MNIST in {folder}: found {len(images)} images but {len(labels)} labels. "
            "Replace the files with a matching pair."
        )
    return Images(images[..., None] / np.float32(255), labels.astype(np.int32))


def _cifar10(folder: Path) -> Images:
    batches = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
    images, labels = read_cifar(folder / "cifar-10-binary.tar.gz", batches)
    pixels = images / np.float32(255)
    # Standardised per channel, as is usual for CIFAR-10.
    mean, scale = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    return Images((pixels - mean) / scale, labels.astype(np.int32))


_DATA_SETS: Mapping[str, _DataSet] = {
    "digits": _DataSet(_digits),
    "mnist": _DataSet(
        _mnist,
        {
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        },
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "cifar10": _DataSet(
        _cifar10,
        {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
        "https://www.cs.toronto.edu/~kriz/",
    ),
}


def _find(name: str) -> _DataSet:
    if name not in _DATA_SETS:
        raise UnknownNameError("data set", name, _DATA_SETS)
    return _DATA_SETS[name]


def fetch(name: str, directory: Path | None = None) -> Path:
    """Make the files of a data set available, and return the directory that holds them.

    Parameters
    ----------
    name
        ``"digits"``, ``"mnist"`` or ``"cifar10"``.
    directory
        Where the files already are; None to use the cache (``CURVLAB_DATA`` or the user's cache
        directory), downloading what is not there.

    Raises
    ------
    UnknownNameError
        If there is no such data set.
    DataError
        If the directory lacks a file, or if a download fails or has another checksum.
    """
    entry = _find(name)
    if directory is not None or not entry.files:
        folder = directory or Path()
        absent = [file for file in entry.files if not (folder / file).is_file()]
        if absent:
            raise DataError(
                f"Data set {name!r} was asked for in {folder}, where {' and '.join(absent)} cannot "
                "be found. Put the original files there, or leave the directory out to download."
            )
        return folder
    import pooch

    cache = Path(os.environ.get("CURVLAB_DATA") or pooch.os_cache("curvlab"))
    for file, checksum in entry.files.items():
        try:
            pooch.retrieve(entry.address + file, checksum, fname=file, path=cache)
        except (OSError, ValueError) as error:
            raise DataError(
                f"Data set {name!r} needs {entry.address}{file}, which could not be stored in "
                f"{cache}: {error}. Check the connection, or fetch the file yourself and pass its "
                "directory with --data."
            ) from error
    return cache


def load(name: str, examples: int, directory: Path | None = None) -> Images:
    """Return the first ``examples`` training images of a data set, shuffled by a fixed seed.

    Parameters
    ----------
    name, directory
        As for :func:`fetch`.
    examples
        How many.

    Returns
    -------
    Images
        Pixels of digits and MNIST scaled to [0, 1], those of CIFAR-10 standardised per channel.

    Raises
    ------
    UnknownNameError
        If there is no such data set.
    DataError
        If a file is missing or damaged, or if there are fewer examples.
    """
    everything = _find(name).read(fetch(name, directory))
    available = len(everything.labels)
    if not 0 < examples <= available:
        raise DataError(
            f"{examples} examples of data set {name!r} were asked for; it has {available}. Ask for "
            f"1 to {available}."
        )
    chosen = np.random.default_rng(_SHUFFLE_SEED).permutation(available)[:examples]
    return Images(everything.inputs[chosen], everything.labels[chosen], everything.classes)
