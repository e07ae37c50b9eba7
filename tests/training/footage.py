"""A few small made-up videos as features: each action raises channels of its own while it lasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS = 6
FPS = 8.0
STEPS = 64
LABELS = ("jump", "run", "throw")
OPTIONS = {
    "channels": 16,
    "neck_channels": 16,
    "head_channels": 16,
    "heads": 2,
    "windows": [5, 5, 5, 5],
    "train_length": 64,
    "drop_path": 0.1,
    "dropout": 0.1,
}


def actions(video: int) -> list[dict[str, Any]]:
    """Two actions per video, at places and of lengths that differ from video to video."""
    draw = np.random.default_rng(video)
    first, second = 0.5 + draw.uniform(0, 1), 4.2 + draw.uniform(0, 0.8)
    return [
        {"label": LABELS[video % 3], "segment": [first, first + draw.uniform(1.0, 2.0)]},
        {"label": LABELS[(video + 1) % 3], "segment": [second, second + draw.uniform(0.8, 2.0)]},
    ]


def values(video: int) -> np.ndarray:
    """(STEPS, CHANNELS); step g stands at (g + 0.5) / FPS seconds."""
    found = 0.05 * np.random.default_rng(100 + video).standard_normal((STEPS, CHANNELS)).astype(np.float32)
    middles_s = (np.arange(STEPS) + 0.5) / FPS
    for action in actions(video):
        start_s, end_s = action["segment"]
        inside = (middles_s >= start_s) & (middles_s <= end_s)
        found[inside, LABELS.index(action["label"])] += 1
        found[:, 3] += np.exp(-((middles_s - start_s) ** 2) * 20)
        found[:, 4] += np.exp(-((middles_s - end_s) ** 2) * 20)
    return found


def write(folder: Path, videos: int = 4) -> None:
    """annotations.json and features/<video>.npy; every video is in both subsets' place, trained and judged on."""
    (folder / "features").mkdir(parents=True)
    database = {
        f"video_{number}": {"subset": "train", "duration": STEPS / FPS, "annotations": actions(number)}
        for number in range(videos)
    }
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    for number in range(videos):
        np.save(folder / "features" / f"video_{number}.npy", values(number))


def plan(**training: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "dataset": {"path": "annotations.json", "train": "train", "validation": "train"},
        "features": {"folder": "features", "stride_frames": 1, "offset_frames": 0.5, "clip_frames": 1, "fps": FPS},
        "detector": {"network": "actionformer", "preset": "compact", "options": OPTIONS},
        "loss": {"options": {"ranges": [[0, 4], [4, 8], [8, 16], [16, 10000]], "initial_positives": 20}},
        "training": {"epochs": 4, "learning_rate": 2e-3, "ema": 0.9, "checkpoint_every_steps": 3, **training},
        "tious": [0.3, 0.5, 0.7],
    }


def write_plan(folder: Path, **training: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan(**training)))
    return path
