"""Clips to learn from: one figure, close, in the midst of one motion; never the same, always repeatable."""

from collections import Counter

import numpy as np

from training.marionette import trimmed
from training.marionette.motions import LABELS


def test_a_number_always_gives_the_same_clip_and_another_gives_another() -> None:
    first, label = trimmed.clip(0, 5, 8, 10, 64)
    again, same = trimmed.clip(0, 5, 8, 10, 64)
    other, _ = trimmed.clip(0, 6, 8, 10, 64)
    assert first.shape == (8, 64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert label == same
    assert (first != other).any()


def test_every_action_occurs_and_about_a_third_of_the_clips_show_none() -> None:
    labels = Counter(trimmed.clip(1, number, 1, 10, 16)[1] for number in range(300))
    assert set(labels) == {*LABELS, None}
    assert 0.25 < labels[None] / 300 < 0.45


def test_the_figure_moves_in_a_clip_of_an_action() -> None:
    moved = []
    for number in range(40):
        pictures, label = trimmed.clip(2, number, 8, 10, 64)
        if label is not None:
            moved.append(np.abs(np.diff(pictures.astype(float), axis=0)).max())
    assert min(moved) > 20
