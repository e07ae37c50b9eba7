"""A data set in, JSON in ActivityNet's form out: what the reader named `json` reads back."""

from __future__ import annotations

import math
from typing import Any

from training.datasets.dataset import Dataset


def write_activitynet(dataset: Dataset) -> dict[str, Any]:
    """Videos of other subsets than the one that was read are left out: nothing is known of them but their names."""
    truth = dataset.ground_truth
    database = {video: _video(dataset, index) for index, video in enumerate(truth.videos)}
    for video_index, segment_s, label in zip(truth.video_indices, truth.segments_s, truth.label_indices, strict=True):
        item = {"segment": segment_s.tolist(), "label": truth.labels[label]}
        database[truth.videos[video_index]]["annotations"].append(item)
    return {"version": dataset.name, "labels": list(truth.labels), "database": database}


def _video(dataset: Dataset, index: int) -> dict[str, Any]:
    video = dataset.ground_truth.videos[index]
    duration_s = float(dataset.ground_truth.durations_s[index])
    stated = {
        "subset": dataset.subsets.get(video),
        "duration": None if math.isnan(duration_s) else duration_s,
        "fps": dataset.fps.get(video),
    }
    return {**{key: value for key, value in stated.items() if value is not None}, "annotations": []}
