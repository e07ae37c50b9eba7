"""Thresholds as a person writes them, and all that can be wrong with those."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidOptions
from training.evaluation.thresholds import parse_tious


@pytest.mark.parametrize(
    ("text", "tious"),
    [
        ("0.1:0.9:0.1", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        ("0.5:0.95:0.05", (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)),
        ("0.1:0.30000000000000004:0.1", (0.1, 0.2, 0.3)),
        ("0.5:0.5:0.1", (0.5,)),
        ("0.5,0.75, 0.95", (0.5, 0.75, 0.95)),
        ("1", (1.0,)),
    ],
)
def test_ranges_include_both_ends_and_give_the_printed_numbers(text, tious):
    assert parse_tious(text) == tious


@given(st.integers(1, 100), st.integers(0, 99), st.integers(1, 50))
def test_every_range_of_hundredths_gives_every_one_of_its_numbers(first, steps, step):
    steps = min(steps, (100 - first) // step)
    text = f"{first / 100}:{(first + steps * step) / 100}:{step / 100}"
    assert parse_tious(text) == tuple((first + index * step) / 100 for index in range(steps + 1))


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["'' is not a number"]),
        ("a,0.5,b", ["'a' is not a number", "'b' is not a number"]),
        ("nan,inf", ["'nan' is not finite", "'inf' is not finite"]),
        ("0,0.5,50", ["0 is not above 0 and up to 1", "50 is not above 0 and up to 1"]),
        ("0.5,0.50", ["0.5 stands there twice"]),
        ("0.1:x", ["'x' is not a number", "a range has three parts, here are 2"]),
        ("0.9:0.1:-0.1", ["step -0.1 is not above 0", "last 0.1 lies below first 0.9"]),
        ("0.1:0.9:0.3", ["steps of 0.3 from 0.1 do not meet last 0.9"]),
        ("0.1:0.9:1e-9", ["more than 1000 thresholds"]),
    ],
)
def test_all_problems_come_at_once_with_what_is_accepted(text, problems):
    with pytest.raises(InvalidOptions) as caught:
        parse_tious(text)
    assert all(problem in str(caught.value) for problem in problems)
    assert repr(text) in str(caught.value)
    assert "FIRST:LAST:STEP" in str(caught.value)
