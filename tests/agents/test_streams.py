import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.supervised.streams import RandomLabels, build_stream, task_name
from curvlab.core.errors import UnknownNameError

INPUTS = np.linspace(0, 1, 400, dtype=np.float32).reshape(100, 4)
seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, tasks=st.integers(1, 50), data=st.data())
def test_a_task_depends_on_seed_and_index_alone(seed, tasks, data):
    index = data.draw(st.integers(0, tasks))
    stream = RandomLabels(INPUTS, 10, tasks, seed)
    before = stream.task(index)
    stream.task(data.draw(st.integers(0, tasks)))
    longer = RandomLabels(INPUTS, 10, tasks + 7, seed)
    for again in (stream.task(index), longer.task(index)):
        np.testing.assert_array_equal(again.targets, before.targets)
        assert again.inputs is INPUTS


@given(seed=seeds, first=st.integers(0, 20), second=st.integers(0, 20))
def test_tasks_and_seeds_have_labels_of_their_own(seed, first, second):
    stream = RandomLabels(INPUTS, 10, 20, seed)
    same = np.mean(stream.task(first).targets == stream.task(second).targets)
    # 100 independent pairs of ten classes agree in 10 % on average; 45 % is 11 standard deviations.
    assert same == 1.0 if first == second else same < 0.45
    neighbour = RandomLabels(INPUTS, 10, 20, (seed + 1) % 2**32)
    assert np.mean(stream.task(first).targets == neighbour.task(first).targets) < 0.45


@given(seed=seeds, classes=st.integers(2, 20))
def test_labels_are_classes_and_all_occur(seed, classes):
    stream = RandomLabels(np.zeros((2000, 1), np.float32), classes, 3, seed)
    targets = stream.task(1).targets
    assert targets.dtype == np.int32
    counts = np.bincount(targets, minlength=classes)
    assert len(counts) == classes
    assert np.all(np.abs(counts - 2000 / classes) < 6 * np.sqrt(2000 / classes))


def test_one_task_beyond_the_last_is_offered_and_no_more():
    stream = RandomLabels(INPUTS, 10, 5, 0)
    assert len(stream.task(5).targets) == 100
    for index in (-1, 6):
        with pytest.raises(IndexError, match="use 0 to 5"):
            stream.task(index)


def test_labels_are_the_same_in_another_process():
    code = (
        "import numpy as np; from agents.supervised.streams import RandomLabels;"
        "print(*RandomLabels(np.zeros((20, 1), np.float32), 10, 2, 7).task(1).targets)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    here = RandomLabels(np.zeros((20, 1), np.float32), 10, 2, 7).task(1).targets
    assert output.stdout.split() == [str(label) for label in here]


def test_names():
    assert task_name(3) == "task-003"
    with pytest.raises(UnknownNameError, match="Did you mean 'random-labels'"):
        build_stream("random-label", INPUTS, 10, 2, 0)
