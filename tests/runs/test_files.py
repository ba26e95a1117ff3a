"""Atomic files and directories, the lock, and the errors of a file system that refuses."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from curvlab.core.errors import RunError, StorageError
from curvlab.runs import files


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_refused_write_leaves_the_old_content(tmp_path, monkeypatch, code):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=os.strerror(code)) as refusal:
        files.write_atomic(path, b"new")
    assert str(path) in str(refusal.value)
    assert isinstance(refusal.value, OSError)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_directory_appears_complete_or_not_at_all(tmp_path):
    target = tmp_path / "new"
    with files.new_directory(target) as temporary:
        (temporary / "part").write_bytes(b"1")
        assert list(files.visible(tmp_path)) == []
    assert (target / "part").read_bytes() == b"1"
    with pytest.raises(ZeroDivisionError), files.new_directory(tmp_path / "other") as temporary:
        (temporary / "part").write_bytes(bytes(1 // 0))
    assert names(tmp_path) == ["new"]


def test_a_name_that_is_taken_is_an_error_and_stays(tmp_path):
    target = tmp_path / "taken"
    target.mkdir()
    (target / "old").write_bytes(b"1")
    with pytest.raises(StorageError, match="taken"), files.new_directory(target) as temporary:
        (temporary / "part").write_bytes(b"1")
    assert names(tmp_path) == ["taken"]
    assert names(target) == ["old"]


def test_stale_temporaries_are_invisible_and_removed(tmp_path):
    (tmp_path / f"{files.TEMPORARY}a").mkdir()
    (tmp_path / f"{files.TEMPORARY}a" / "x").write_bytes(b"")
    (tmp_path / f"{files.TEMPORARY}b").write_bytes(b"")
    (tmp_path / "kept").write_bytes(b"")
    assert [entry.name for entry in files.visible(tmp_path)] == ["kept"]
    files.remove_stale(tmp_path)
    assert names(tmp_path) == ["kept"]


def test_room_is_checked_against_disk_and_limit(tmp_path):
    files.require_room(tmp_path, 1000)
    with pytest.raises(StorageError, match="bytes needed"):
        files.require_room(tmp_path, 1 << 62)


def test_codes_are_found_in_the_errors_of_libraries():
    nested = ValueError("a")
    nested.__cause__ = OSError(errno.ENOSPC, "full")
    assert files.os_error_code(nested) == errno.ENOSPC
    assert files.os_error_code(ValueError("x [os_error_code='27']")) == errno.EFBIG
    assert files.os_error_code(ValueError("x")) is None


def test_the_second_lock_is_refused_with_the_holder_named(tmp_path):
    lock = files.Lock(tmp_path / ".lock")
    with pytest.raises(RunError, match=f"process {os.getpid()} is writing"):
        files.Lock(tmp_path / ".lock")
    lock.release()
    lock.release()
    assert not lock.held
    files.Lock(tmp_path / ".lock").release()


def test_the_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from curvlab.runs.files import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {process.pid} is writing"):
            files.Lock(tmp_path / ".lock")
        process.kill()
        process.wait()
    files.Lock(tmp_path / ".lock").release()


def test_json_is_the_same_for_equal_data():
    assert files.to_json({"b": 1, "a": [1, "é"]}) == files.to_json({"a": [1, "é"], "b": 1})
    with pytest.raises(ValueError, match=re.compile("nan|JSON", re.IGNORECASE)):
        files.to_json(float("nan"))


def test_a_lock_on_a_missing_directory_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        files.Lock(tmp_path / "absent" / ".lock")
