"""Training plans of G-TAD (Xu et al., CVPR 2020)."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets

PUBLISHED = schedule(
    10,
    4e-5,
    8,
    0.9,
    warmup_epochs=0,
    schedule="steps",
    milestones=[5],
    weight_decay=1e-4,
    ema=None,
    clip_norm=1.0,
    crop=None,
)


def thumos14() -> Document:
    """TSN features of every fifth frame, flow before RGB. Finds actions of any class, so others name them.

    They train on every window of 256 that holds nine tenths of an action and overlaps the last by half. Reconstruction:
    here windows are drawn, about as many per epoch.
    """
    return plan("gtad", "thumos", "thumos14", snippets(5, 5), {**PUBLISHED, "windows_per_video": 9})


def activitynet() -> Document:
    """TSN class scores of 16 frames every 16. Finds actions of any class, so others name them."""
    training = {**PUBLISHED, "learning_rate": 4e-3, "batch_size": 16, "trunc_thresh": 0.0, "clip_norm": None}
    return plan("gtad", "activitynet", "activitynet", snippets(16, 16), training)


def marionette() -> Document:
    """Our own small data set, on two cores within four minutes."""
    training = schedule(10, 2e-3, 4, 0.5, warmup_epochs=1, weight_decay=1e-4, ema=0.99)
    document = plan("gtad", "compact", "marionette", {}, training)
    document["training"] |= {"validate_every_epochs": 5, "checkpoint_every_steps": 100}
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
