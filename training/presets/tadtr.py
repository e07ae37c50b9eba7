"""Training plans of TadTR (Liu et al., TIP 2022)."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets

PUBLISHED = schedule(
    16,
    2e-4,
    16,
    0.75,
    warmup_epochs=0,
    schedule="steps",
    milestones=[14],
    weight_decay=1e-4,
    ema=None,
    clip_norm=0.1,
    crop=None,
    slow_parameters=["reference_points", "sampling_offsets"],
)


def thumos14() -> Document:
    """I3D features of 64 frames every 8, two streams; a step stands in the middle of its 8 frames, as theirs do.

    They train on every window of 128 that overlaps the last by three quarters and holds an action. Reconstruction: here
    windows are drawn, about as many per epoch.
    """
    document = plan("tadtr", "thumos", "thumos14", snippets(8, 64), {**PUBLISHED, "windows_per_video": 12})
    document["features"]["offset_frames"] = 4
    return document


def activitynet() -> Document:
    """Reconstruction: TSP features of 16 frames every 16 at 15 frames a second, epochs the default of their options.
    Finds actions of any class, so others name them."""
    training = {**PUBLISHED, "epochs": 30, "milestones": [25]}
    return plan("tadtr", "activitynet", "activitynet", snippets(16, 16, 15), training)


def marionette() -> Document:
    """Our own small data set, on two cores within four minutes."""
    training = schedule(
        32,
        5e-4,
        8,
        0.5,
        warmup_epochs=2,
        weight_decay=1e-4,
        ema=0.99,
        clip_norm=0.5,
        windows_per_video=4,
        slow_parameters=PUBLISHED["slow_parameters"],
    )
    document = plan("tadtr", "compact", "marionette", {}, training)
    document["detector"]["options"] = {"channels": 128, "feedforward_channels": 256}
    document["training"] |= {"validate_every_epochs": 10, "checkpoint_every_steps": 200}
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
