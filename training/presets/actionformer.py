"""Training plans of ActionFormer (Zhang et al., ECCV 2022)."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets


def thumos14() -> Document:
    """I3D features of 16 frames every 4, two streams (Zhang et al., ECCV 2022)."""
    return plan("actionformer", "thumos", "thumos14", snippets(4, 16), schedule(30, 1e-4, 2, 0.5))


def activitynet() -> Document:
    """I3D features of 16 frames every 16 at 25 frames a second; finds actions of any class, so others name them."""
    return plan("actionformer", "activitynet", "activitynet", snippets(16, 16, 25), schedule(10, 1e-3, 16, 0.5))


def epic_kitchens() -> Document:
    """SlowFast features of 32 frames every 16 at 30 frames a second. Verbs; for nouns set num_classes to 300 by the
    data and the loss's label_smoothing to 0.1."""
    return plan("actionformer", "epic-kitchens", "epic-kitchens", snippets(16, 32, 30), schedule(16, 1e-4, 2, 0.3))


def ego4d() -> Document:
    """SlowFast features of 32 frames every 16 at 30 frames a second."""
    return plan("actionformer", "ego4d", "ego4d", snippets(16, 32, 30), schedule(10, 1e-4, 2, 0.3))


def multithumos() -> Document:
    """Reconstruction: THUMOS14's settings, whose videos and features these are, scored from 0.1 to 0.9."""
    return plan("actionformer", "thumos", "multithumos", snippets(4, 16), schedule(30, 1e-4, 2, 0.5))


def charades() -> Document:
    """Reconstruction: I3D features of 16 frames every 4 at 24 frames a second; fewer epochs over more videos."""
    document = plan("actionformer", "thumos", "charades", snippets(4, 16, 24), schedule(12, 1e-4, 16, 0.5))
    document["detector"]["options"] = {"train_length": 576}
    return document


def marionette() -> Document:
    """Our own small data set: about 120 videos of a minute, on two cores within four minutes."""
    document = plan("actionformer", "compact", "marionette", {}, schedule(24, 1e-3, 4, 0.5, warmup_epochs=3, ema=0.99))
    document["detector"]["options"] = {"channels": 128, "neck_channels": 128, "head_channels": 128}
    document["training"] |= {"validate_every_epochs": 6, "checkpoint_every_steps": 100}
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "epic-kitchens": epic_kitchens,
    "ego4d": ego4d,
    "multithumos": multithumos,
    "charades": charades,
    "marionette": marionette,
}
