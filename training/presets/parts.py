"""What presets of training plans are made of: a data set, features, and a schedule, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]

# The data set's reader, its subsets to train, validate and test on, and its protocol.
DATA: Mapping[str, tuple[str, str, str, str | None, str]] = {
    "thumos14": ("thumos14", "validation", "test", None, "thumos14"),
    "activitynet": ("activitynet-1.3", "training", "validation", None, "activitynet"),
    "epic-kitchens": ("epic-kitchens-100", "training", "validation", None, "epic"),
    "ego4d": ("ego4d-mq", "train", "val", None, "ego4d"),
    "multithumos": ("multithumos", "validation", "test", None, "multithumos"),
    "charades": ("charades", "training", "test", None, "charades"),
    "marionette": ("json", "training", "validation", "testing", "thumos14"),
}


def plan(network: str, preset: str, data: str, features: Document, training: Document) -> Document:
    form, train, validation, test, protocol = DATA[data]
    return {
        "dataset": {"format": form, "train": train, "validation": validation, "test": test},
        "features": features,
        "detector": {"network": network, "preset": preset},
        "protocol": protocol,
        "training": training,
    }


def snippets(stride: float, clip: int, fps: float | None = None) -> Document:
    return {"stride_frames": stride, "offset_frames": clip / 2, "clip_frames": clip, "fps": fps}


def schedule(epochs: int, learning_rate: float, batch_size: int, trunc_thresh: float, **more: Any) -> Document:
    return {
        "epochs": epochs,
        "warmup_epochs": 5,
        "learning_rate": learning_rate,
        "weight_decay": 0.05,
        "batch_size": batch_size,
        "trunc_thresh": trunc_thresh,
        "ema": 0.999,
        "clip_norm": 1.0,
        **more,
    }
