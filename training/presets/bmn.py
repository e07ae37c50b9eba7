"""Training plans of BMN (Lin et al., ICCV 2019): proposals of any class, which something else names."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets

PUBLISHED = schedule(
    9,
    1e-3,
    16,
    0.5,
    warmup_epochs=0,
    schedule="steps",
    milestones=[7],
    weight_decay=1e-4,
    ema=None,
    clip_norm=None,
    crop=None,
)
SMALL = schedule(10, 1e-3, 4, 0.5, warmup_epochs=1, weight_decay=1e-4, ema=0.99, clip_norm=1.0, crop=None)


def thumos14() -> Document:
    """I3D features of 16 frames every 4, two streams, as OpenTAD. It trains on every window of 128 that overlaps the
    last by half and holds an action, 90 % of which it must leave. Reconstruction: here windows are drawn, about as many
    per epoch; and all weights decay alike, where OpenTAD's base decays ten times as fast."""
    training = {
        **PUBLISHED,
        "epochs": 8,
        "milestones": [5],
        "learning_rate": 1e-4,
        "trunc_thresh": 0.9,
        "clip_norm": 1.0,
        "windows_per_video": 15,
    }
    return plan("bmn", "thumos", "thumos14", snippets(4, 16), training)


def activitynet() -> Document:
    """TSN class scores of every 16 frames."""
    return plan("bmn", "activitynet", "activitynet", snippets(16, 16), PUBLISHED)


def marionette() -> Document:
    """Our own small data set, on two cores within four minutes."""
    document = plan("bmn", "compact", "marionette", {}, SMALL)
    document["training"] |= {"validate_every_epochs": 5, "checkpoint_every_steps": 100}
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
