"""Writing to disk so that nothing half-written is ever seen, and errors that say what to do.

Everything a run stores passes through here: a file or a directory is built under a temporary name
beside its final one, synced, and renamed. Readers ignore temporary names; the next writer removes
those a killed process has left. What the files mean is defined in the other modules.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import resource
import secrets
import shutil
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from curvlab.core.errors import CurvlabError, RunError, StorageError

TEMPORARY = ".tmp-"

_ADVICE = {
    errno.ENOSPC: "Free some space or write to another disk, then run the same command again.",
    errno.EDQUOT: "Free some of your quota or write to another disk, then run the command again.",
    errno.EFBIG: "Raise the file-size limit (ulimit -f) or write elsewhere, then run it again.",
    errno.EROFS: "The file system is read-only: choose another directory.",
    errno.EACCES: "Change the permissions or choose another directory.",
    errno.EPERM: "Change the permissions or choose another directory.",
}


def storage_error(path: Path, code: int | None, reason: str) -> StorageError:
    """Return the error for a write to ``path`` that the operating system refused."""
    advice = _ADVICE.get(code or 0, "Check the disk and the path, then run the same command again.")
    return StorageError(
        f"Cannot write {path}: {reason or os.strerror(code or errno.EIO)}. "
        f"What was stored before is intact. {advice}"
    )


@contextmanager
def storing(path: Path) -> Generator[None]:
    """Turn an ``OSError`` raised inside the block into a :class:`StorageError` about ``path``."""
    try:
        yield
    except CurvlabError:
        raise
    except OSError as error:
        raise storage_error(path, error.errno, error.strerror or str(error)) from error


def os_error_code(error: BaseException) -> int | None:
    """Find the operating system's code in an error of a storage library, or return None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        found = re.search(r"os_error_code='(\d+)'|errno = (\d+)", str(seen))
        if found:
            return int(found[1] or found[2])
        seen = seen.__cause__ or seen.__context__
    return None


def require_room(directory: Path, size: int) -> None:
    """Refuse before anything is written if ``size`` bytes cannot fit below ``directory``.

    Raises
    ------
    StorageError
        If the disk or the file-size limit leaves less than ``size`` bytes.
    """
    with storing(directory):
        status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if free < size:
        raise storage_error(directory, errno.ENOSPC, f"{size} bytes needed, {free} are free")
    if limit != resource.RLIM_INFINITY and limit < size:
        raise storage_error(
            directory, errno.EFBIG, f"{size} bytes needed, the file-size limit is {limit}"
        )


def sync(path: Path) -> None:
    """Force a file or the entries of a directory onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and pipe-like files cannot be synced; the write itself has succeeded.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """Return a fresh temporary name beside ``path``, ignored by every reader."""
    return path.parent / f"{TEMPORARY}{secrets.token_hex(6)}"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step.

    Raises
    ------
    StorageError
        If the file system refuses; the earlier content is then untouched.
    """
    temporary = temporary_name(path)
    with storing(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def new_directory(path: Path) -> Generator[Path]:
    """Give a temporary directory to fill; it becomes ``path`` when the block ends without error.

    Raises
    ------
    StorageError
        If the file system refuses; nothing is left behind.
    """
    temporary = temporary_name(path)
    with storing(path):
        try:
            temporary.mkdir()
            yield temporary
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            temporary.rename(path)
            sync(path.parent)
        except StorageError as error:
            _discard(temporary)
            raise StorageError(str(error).replace(str(temporary), str(path))) from error
        except BaseException:
            _discard(temporary)
            raise


def _discard(temporary: Path) -> None:
    # A storage library's threads may still be writing when its error arrives.
    for pause in (0.0, 0.05, 0.2, 0.5):
        time.sleep(pause)
        shutil.rmtree(temporary, ignore_errors=True)
        if not temporary.exists():
            return


def remove_directory(path: Path) -> None:
    """Delete a directory so that no reader ever sees half of it."""
    with storing(path):
        temporary = temporary_name(path)
        path.rename(temporary)
        sync(path.parent)
        shutil.rmtree(temporary)


def remove_stale(directory: Path) -> None:
    """Delete what killed writers left in ``directory``; the caller holds the lock."""
    for entry in visible(directory, temporary=True):
        with storing(entry):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)


def visible(directory: Path, *, temporary: bool = False) -> Iterator[Path]:
    """Yield the entries of ``directory`` in order: the stored ones, or the temporary ones."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(directory.iterdir()):
            if entry.name.startswith(TEMPORARY) == temporary and (
                temporary or not entry.name.startswith(".")
            ):
                yield entry


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(data: Any) -> bytes:
    """Return ``data`` as readable JSON with sorted keys, the same bytes for equal data."""
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


class Lock:
    """An exclusive claim on a directory, held until :meth:`release` or the end of the process.

    Parameters
    ----------
    path
        The lock file, created if need be and never removed (removing it would let two in).
    wait
        Whether to wait for the present holder instead of refusing.

    Raises
    ------
    RunError
        If another process or another writer of this process holds the lock.
    """

    def __init__(self, path: Path, *, wait: bool = False):
        with storing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise RunError(
                f"Cannot open {path.parent} for writing: process {holder} is writing to it. Wait "
                "until it has ended (or end it), or choose another directory."
            ) from None
        with suppress(OSError):  # The number only helps the message above.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    @property
    def held(self) -> bool:
        """Whether it has not been released."""
        return self._finalizer.alive

    def release(self) -> None:
        """Let the next writer in; releasing twice is harmless."""
        self._finalizer()
