"""The name of a detector and a data set in, the part of a training plan that papers settle out; plain JSON values.

A preset leaves out what is a user's: `name`, and where annotations and features lie. Numbers are those of
the published configurations; where none was published, a function says "reconstruction".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def _document(network: str, preset: str, data: str, features: Document, training: Document) -> Document:
    form, train, validation, test, protocol = DATA[data]
    return {
        "dataset": {"format": form, "train": train, "validation": validation, "test": test},
        "features": features,
        "detector": {"network": network, "preset": preset},
        "protocol": protocol,
        "training": training,
    }


def _features(stride: float, clip: int, fps: float | None = None) -> Document:
    return {"stride_frames": stride, "offset_frames": clip / 2, "clip_frames": clip, "fps": fps}


def _training(epochs: int, learning_rate: float, batch_size: int, trunc_thresh: float, **more: Any) -> Document:
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


def actionformer_thumos14() -> Document:
    """I3D features of 16 frames every 4, two streams (Zhang et al., ECCV 2022)."""
    return _document("actionformer", "thumos", "thumos14", _features(4, 16), _training(30, 1e-4, 2, 0.5))


def actionformer_activitynet() -> Document:
    """I3D features of 16 frames every 16 at 25 frames a second; finds actions of any class, so others name them."""
    return _document("actionformer", "activitynet", "activitynet", _features(16, 16, 25), _training(10, 1e-3, 16, 0.5))


def actionformer_epic_kitchens() -> Document:
    """SlowFast features of 32 frames every 16 at 30 frames a second. Verbs; for nouns set num_classes to 300 by the
    data and the loss's label_smoothing to 0.1."""
    return _document(
        "actionformer", "epic-kitchens", "epic-kitchens", _features(16, 32, 30), _training(16, 1e-4, 2, 0.3)
    )


def actionformer_ego4d() -> Document:
    """SlowFast features of 32 frames every 16 at 30 frames a second."""
    return _document("actionformer", "ego4d", "ego4d", _features(16, 32, 30), _training(10, 1e-4, 2, 0.3))


def actionformer_multithumos() -> Document:
    """Reconstruction: THUMOS14's settings, whose videos and features these are, scored from 0.1 to 0.9."""
    return _document("actionformer", "thumos", "multithumos", _features(4, 16), _training(30, 1e-4, 2, 0.5))


def actionformer_charades() -> Document:
    """Reconstruction: I3D features of 16 frames every 4 at 24 frames a second; fewer epochs over more videos."""
    document = _document("actionformer", "thumos", "charades", _features(4, 16, 24), _training(12, 1e-4, 16, 0.5))
    document["detector"]["options"] = {"train_length": 576}
    return document


def actionformer_marionette() -> Document:
    """Our own small data set: about 120 videos of a minute, on two cores within four minutes."""
    document = _document(
        "actionformer", "compact", "marionette", {}, _training(24, 1e-3, 4, 0.5, warmup_epochs=3, ema=0.99)
    )
    document["detector"]["options"] = {"channels": 128, "neck_channels": 128, "head_channels": 128}
    document["training"] |= {"validate_every_epochs": 6, "checkpoint_every_steps": 100}
    return document


PRESETS: Mapping[str, Callable[[], Document]] = {
    "actionformer/thumos14": actionformer_thumos14,
    "actionformer/activitynet": actionformer_activitynet,
    "actionformer/epic-kitchens": actionformer_epic_kitchens,
    "actionformer/ego4d": actionformer_ego4d,
    "actionformer/multithumos": actionformer_multithumos,
    "actionformer/charades": actionformer_charades,
    "actionformer/marionette": actionformer_marionette,
}
