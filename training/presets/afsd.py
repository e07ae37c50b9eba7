"""Training plans of AFSD (Lin et al., CVPR 2021)."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets

PUBLISHED = schedule(
    16,
    1e-5,
    1,
    0.5,
    warmup_epochs=0,
    schedule="steps",
    weight_decay=1e-3,
    ema=None,
    clip_norm=0.1,
    crop=None,
)


def thumos14() -> Document:
    """Every third of ActionFormer's features, as OpenTAD trains on them: all windows of 64 that overlap the last by
    seven eighths. Reconstruction: here windows are drawn, about as many per epoch."""
    training = PUBLISHED | {"milestones": [16], "windows_per_video": 50}
    return plan("afsd", "thumos", "thumos14", snippets(12, 16), training)


def activitynet() -> Document:
    """TSP features of 16 frames every 16 at 15 frames a second, as OpenTAD; finds actions of any class, so others name
    them."""
    training = PUBLISHED | {
        "epochs": 9,
        "warmup_epochs": 1,
        "milestones": [4],
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "batch_size": 16,
        "clip_norm": 1.0,
    }
    return plan("afsd", "activitynet", "activitynet", snippets(16, 16, 15), training)


def marionette() -> Document:
    """Our own small data set, on two cores within four minutes."""
    training = schedule(26, 1e-3, 8, 0.5, warmup_epochs=2, ema=0.99, windows_per_video=2)
    document = plan("afsd", "compact", "marionette", {}, training)
    document["detector"]["options"] = {"channels": 128}
    document["training"] |= {"validate_every_epochs": 7, "checkpoint_every_steps": 100}
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
