"""How a budget is shared between runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvlab.cli.analyze import fair_share

NEEDS = st.lists(st.floats(0, 1e4), min_size=1, max_size=8)


def test_what_a_run_does_not_need_goes_to_the_others() -> None:
    assert fair_share([60, 60], 60) == 30
    assert fair_share([60, 10, 60], 60) == 25
    assert fair_share([10, 60, 60], 60) >= 10
    assert fair_share([60, 0, 0, 0], 60) == 60


@given(needs=NEEDS, seconds=st.floats(0, 1e4))
def test_no_run_takes_what_others_are_owed(needs: list[float], seconds: float) -> None:
    spent, left = 0.0, seconds
    granted = []
    for number, need in enumerate(needs):
        share = fair_share(needs[number:], left)
        granted.append(min(share, need))
        spent += granted[-1]
        left -= granted[-1]
    assert spent == pytest.approx(min(seconds, sum(needs)), abs=1e-6)
    # Nobody who is short of time got less than anybody else.
    short = [g for g, need in zip(granted, needs, strict=True) if g < need - 1e-6]
    assert not short or min(short) >= np.max(granted) - 1e-6
