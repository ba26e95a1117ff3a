"""The loaders read small files in the true formats."""

import functools
import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from agents.supervised import data
from agents.supervised.data import fetch, load
from agents.supervised.formats import DataError, read_cifar, read_idx
from curvlab.core.errors import UnknownNameError

RNG = np.random.default_rng(5)
MNIST_IMAGES, MNIST_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
CIFAR = "cifar-10-binary.tar.gz"


def write_idx(path: Path, array: np.ndarray, magic: int = 0x0800) -> None:
    header = struct.pack(f">I{array.ndim}I", magic + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_mnist(folder: Path, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = RNG.integers(0, 10, count, dtype=np.uint8)
    write_idx(folder / MNIST_IMAGES, images)
    write_idx(folder / MNIST_LABELS, labels)
    return images, labels


def write_cifar(
    folder: Path, batches: dict[str, bytes] | None = None, each: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    images = RNG.integers(0, 256, (5 * each, 3, 32, 32), dtype=np.uint8)
    labels = RNG.integers(0, 10, 5 * each, dtype=np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(5 * each, -1)], axis=1)
    files = {
        f"data_batch_{number + 1}.bin": records[number * each : (number + 1) * each].tobytes()
        for number in range(5)
    }
    with tarfile.open(folder / CIFAR, "w:gz") as archive:
        for name, content in {"readme.html": b"hello", **(batches or files)}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return images.transpose(0, 2, 3, 1), labels


def test_digits_are_scaled_shuffled_and_always_the_same():
    images = load("digits", 1000)
    assert images.inputs.shape == (1000, 8, 8, 1)
    assert images.inputs.dtype == np.float32
    assert images.labels.dtype == np.int32
    assert (images.inputs.min(), images.inputs.max()) == (0.0, 1.0)
    assert set(images.labels) == set(range(10))
    fewer = load("digits", 50)
    np.testing.assert_array_equal(fewer.inputs, images.inputs[:50])
    assert list(fewer.labels[:20]) != sorted(fewer.labels[:20])


def test_mnist_is_read_from_its_idx_files(tmp_path):
    images, labels = write_mnist(tmp_path)
    read = load("mnist", 12, tmp_path)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(read.inputs, images[order][..., None] / np.float32(255))
    np.testing.assert_array_equal(read.labels, labels[order])
    assert read.inputs.dtype == np.float32


def test_cifar10_is_read_from_its_tar_file(tmp_path):
    images, labels = write_cifar(tmp_path)
    pixels, found = read_cifar(tmp_path / CIFAR, tuple(f"data_batch_{n}.bin" for n in range(1, 6)))
    np.testing.assert_array_equal(pixels, images)
    np.testing.assert_array_equal(found, labels)
    read = load("cifar10", 15, tmp_path)
    np.testing.assert_allclose(read.inputs.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(read.inputs.std(axis=(0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_array_equal(read.labels, labels[np.random.default_rng(0).permutation(15)])


@pytest.mark.parametrize("cut", [1, 20, 2000])
def test_a_truncated_idx_file_is_refused(tmp_path, cut):
    write_mnist(tmp_path)
    path = tmp_path / MNIST_IMAGES
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=rf"{MNIST_IMAGES}: expected a complete gzip file"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not compressed at all", "expected a complete gzip file"),
        (gzip.compress(b""), "magic 00000803.*found magic none"),
        (gzip.compress(struct.pack(">4I", 0x0D03, 1, 2, 2) + b"1234"), "found magic 00000d03"),
        (gzip.compress(struct.pack(">2I", 0x0801, 1) + b"1"), "found magic 00000801"),
        (gzip.compress(struct.pack(">4I", 0x0803, 1, 2, 2) + b"123"), "expected 4 bytes.*3 bytes"),
        (gzip.compress(struct.pack(">4I", 0x0803, 1, 2, 2) + b"12345"), "found 5 bytes"),
        (gzip.compress(struct.pack(">2I", 0x0803, 1)), "idx file"),
    ],
    ids=["plain", "empty", "floats", "labels", "short", "long", "header"],
)
def test_a_wrong_idx_file_is_refused(tmp_path, content, message):
    path = tmp_path / MNIST_IMAGES
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path, 3)


def test_images_without_labels_are_refused(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / MNIST_LABELS, np.zeros(11, np.uint8))
    with pytest.raises(DataError, match="12 images but 11 labels"):
        load("mnist", 5, tmp_path)


def test_a_wrong_cifar_archive_is_refused(tmp_path):
    names = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
    path = tmp_path / CIFAR
    write_cifar(tmp_path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"tar\.gz: expected a complete tar\.gz"):
        read_cifar(path, names)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(DataError, match=r"expected a complete tar\.gz"):
        read_cifar(path, names)
    record = bytes([3]) + bytes(3072)
    whole = dict.fromkeys(names, record)
    for batches, message in [
        ({name: record for name in names[:-1]}, r"found no data_batch_5\.bin"),
        ({**whole, names[2]: record[:-1]}, r"data_batch_3\.bin in records of 3073.*3072 bytes"),
        ({**whole, names[0]: b""}, r"data_batch_1\.bin.*found 0 bytes"),
        ({**whole, names[4]: bytes([10]) + bytes(3072)}, "labels from 0 to 9, found label 10"),
    ]:
        write_cifar(tmp_path, batches)
        with pytest.raises(DataError, match=message):
            read_cifar(path, names)


def test_what_is_not_there_is_said_with_its_name(tmp_path):
    with pytest.raises(DataError, match=f"{MNIST_IMAGES} and {MNIST_LABELS} cannot be found"):
        load("mnist", 5, tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_idx(tmp_path / MNIST_IMAGES, 3)
    with pytest.raises(DataError, match="no such file"):
        read_cifar(tmp_path / CIFAR, ("data_batch_1.bin",))
    with pytest.raises(UnknownNameError, match=r"'cifar'.*Did you mean 'cifar10'"):
        fetch("cifar")
    for count in (0, 1798):
        with pytest.raises(DataError, match=rf"{count} examples of .*'digits'.*has 1797"):
            load("digits", count)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """MNIST in miniature, offered over HTTP with its true checksums, and an empty cache."""
    published = tmp_path / "published"
    published.mkdir()
    write_mnist(published)
    handler = functools.partial(_Quiet, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        sums = {
            file: f"md5:{hashlib.md5((published / file).read_bytes()).hexdigest()}"
            for file in (MNIST_IMAGES, MNIST_LABELS)
        }
        address = f"http://127.0.0.1:{httpd.server_port}/"
        entry = data._DataSet(data._mnist, sums, address)
        monkeypatch.setattr(data, "_DATA_SETS", {"mnist": entry})
        monkeypatch.setenv("CURVLAB_DATA", str(tmp_path / "cache"))
        yield published
        httpd.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_files_are_downloaded_once_and_checked(server, tmp_path):
    first = load("mnist", 12)
    assert (tmp_path / "cache" / MNIST_IMAGES).read_bytes() == (server / MNIST_IMAGES).read_bytes()
    for file in (MNIST_IMAGES, MNIST_LABELS):
        (server / file).unlink()
    np.testing.assert_array_equal(load("mnist", 12).inputs, first.inputs)


def test_a_download_with_another_checksum_is_refused_and_not_kept(server, tmp_path):
    write_idx(server / MNIST_IMAGES, np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(DataError, match=rf"'mnist' needs .*{MNIST_IMAGES}.*hash"):
        load("mnist", 2)
    assert not (tmp_path / "cache" / MNIST_IMAGES).exists()


def test_a_failed_download_is_one_clear_error(server):
    (server / MNIST_LABELS).unlink()
    with pytest.raises(DataError, match=rf"{MNIST_LABELS}.*404.*--data"):
        load("mnist", 2)
