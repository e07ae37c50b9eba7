"""Rows of numbers in, ground truth and predictions out, and random small scenes for laws and oracles."""

import numpy as np
from hypothesis import strategies as st

from training.evaluation.annotations import GroundTruth, Predictions

VIDEOS = 3
LABELS = 3


def ground_truth(rows, videos=VIDEOS, labels=LABELS):
    """Rows of (video, start, end, label)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return GroundTruth(
        tuple(f"v{index}" for index in range(videos)),
        tuple(f"c{index}" for index in range(labels)),
        table[:, 0].astype(np.int64),
        table[:, 1:3],
        table[:, 3].astype(np.int64),
        np.full(videos, np.nan),
    )


def predictions(rows):
    """Rows of (video, start, end, label, score)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return Predictions(table[:, 0].astype(np.int64), table[:, 1:3], table[:, 3].astype(np.int64), table[:, 4])


@st.composite
def _segment(draw):
    start = draw(st.integers(0, 12))
    return start, start + draw(st.integers(1, 8))


@st.composite
def _true_row(draw):
    return draw(st.integers(0, VIDEOS - 1)), *draw(_segment()), draw(st.integers(0, LABELS - 1))


@st.composite
def _predicted_row(draw):
    return *draw(_true_row()), draw(st.integers(0, 8)) / 8


true_rows = st.lists(_true_row(), min_size=1, max_size=8)
predicted_rows = st.lists(_predicted_row(), max_size=20)
