"""The training log: rows in, a dataset over step out, whatever happens in between."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.core.errors import RunError, StorageError
from curvlab.runs import RunWriter, open_run
from curvlab.runs.metrics import append_row, cut_partial_line, read_metrics, truncate_after

NAMES = st.sampled_from(["loss", "accuracy", "rate"])
ROWS = st.lists(st.tuples(st.integers(0, 5), st.dictionaries(NAMES, st.floats())), max_size=8)


@pytest.fixture(scope="module")
def log_path(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "metrics.jsonl"


@given(rows=ROWS)
def test_rows_merge_by_step_and_keep_every_bit(log_path, rows):
    path = log_path
    path.unlink(missing_ok=True)
    expected: dict[int, dict[str, float]] = {}
    for step, row in rows:
        append_row(path, step, row)
        expected.setdefault(step, {}).update(row)
    found = read_metrics(path)
    assert found.step.values.tolist() == sorted(expected)
    assert set(found.data_vars) == {name for row in expected.values() for name in row}
    for name, column in found.items():
        wanted = [expected[step].get(str(name), math.nan) for step in sorted(expected)]
        np.testing.assert_array_equal(column.values, wanted)


def test_every_line_is_standard_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_row(path, 3, {"a": jnp.float32(0.1), "b": np.nan, "c": -np.inf, "d": True, "e": 7})
    (line,) = path.read_text().splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert found == {"step": 3, "a": float(np.float32(0.1)), "b": "nan", "c": "-inf"} | {
        "d": True,
        "e": 7,
    }


@pytest.mark.parametrize("value", [np.zeros(2), "text", 1j, None, [1.0]])
def test_what_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(RunError, match="Cannot log 'x'"):
        append_row(tmp_path / "metrics.jsonl", 0, {"x": value})
    with pytest.raises(RunError, match="Cannot log 'step'"):
        append_row(tmp_path / "metrics.jsonl", 0, {"step": 1})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_unfinished_line_is_ignored_and_cut_by_the_next_writer(tmp_path):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        writer.log(0, loss=1.0)
    log = tmp_path / "run" / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 1, "lo')
    run = open_run(tmp_path / "run")
    assert run.metrics().step.values.tolist() == [0]
    assert run.verify() == ()
    with RunWriter.open(tmp_path / "run") as writer:
        assert log.read_bytes() == whole
        writer.log(1, loss=0.5)
    assert run.metrics().loss.values.tolist() == [1.0, 0.5]


def test_a_file_that_is_one_unfinished_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"st')
    assert read_metrics(path).sizes == {"step": 0}
    cut_partial_line(path)
    assert path.read_bytes() == b""


def test_truncation_drops_later_rows_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (0, 5, 10, 7):
        append_row(path, step, {"loss": step})
    lines = path.read_bytes().splitlines()
    truncate_after(path, 7)
    assert path.read_bytes().splitlines() == [lines[0], lines[1], lines[3]]
    before = path.stat().st_mtime_ns
    truncate_after(path, 7)
    assert path.stat().st_mtime_ns == before
    truncate_after(tmp_path / "absent", 7)


@pytest.mark.parametrize("line", ["no json", "[1]", '{"loss": 1}', '{"step": 1, "loss": [1]}'])
def test_a_damaged_line_is_named(run_path, line):
    log = run_path / "metrics.jsonl"
    log.write_text(log.read_text() + line + "\n")
    run = open_run(run_path)
    with pytest.raises(RunError, match=r"line 4 of .*metrics.jsonl"):
        run.metrics()
    assert [(f.path, f.problem) for f in run.verify()] == [("metrics.jsonl", "unreadable")]


def test_a_full_disk_keeps_the_rows(tmp_path):
    with RunWriter.create(tmp_path / "run", config={}) as writer:
        log = tmp_path / "run" / "metrics.jsonl"
        log.symlink_to("/dev/full")
        with pytest.raises(StorageError, match=r"No space left on device.*Free some space"):
            writer.log(0, loss=1.0)
        with pytest.raises(RunError, match="found a device"):
            writer.discard_after(0)
    assert [finding.path for finding in open_run(tmp_path / "run").verify()] == ["metrics.jsonl"]


def test_a_partly_written_row_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    append_row(path, 0, {"loss": 1.0})
    before, write = path.read_bytes(), os.write

    def half(descriptor, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:15])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StorageError, match="No space left"):
        append_row(path, 1, {"loss": 0.5})
    assert path.read_bytes() == before
