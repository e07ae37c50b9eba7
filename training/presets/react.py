"""Training plans of ReAct (Shi et al., ECCV 2022)."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets

PUBLISHED = schedule(
    20,
    2e-4,
    16,
    0.75,
    warmup_epochs=0,
    schedule="steps",
    milestones=[13],
    weight_decay=0.0,
    ema=None,
    clip_norm=None,
    crop=None,
)


def thumos14() -> Document:
    """TSN features of every fifth frame, two streams. As in the released code the contrast of snippets has the first 6
    of 20 epochs to itself; epochs of 187 steps, about as many as windows with actions make there, are a
    reconstruction, since windows are drawn here."""
    document = plan("react", "thumos", "thumos14", snippets(5, 5), {**PUBLISHED, "windows_per_video": 15})
    document["loss"] = {"options": {"contrast_steps": 6 * 187}}
    return document


def activitynet() -> Document:
    """Reconstruction: TSN features of every 16 frames; of training nothing was published, so THUMOS14's rates and
    epochs stand here, without their first phase."""
    return plan("react", "activitynet", "activitynet", snippets(16, 16), {**PUBLISHED, "trunc_thresh": 0.5})


def marionette() -> Document:
    """Our own small data set, on two cores within four minutes."""
    training = schedule(
        40, 5e-4, 8, 0.75, warmup_epochs=2, weight_decay=1e-4, ema=0.99, clip_norm=0.5, windows_per_video=4
    )
    document = plan("react", "compact", "marionette", {}, training)
    document["detector"]["options"] = {"channels": 128, "feed_forward": 256}
    document["training"] |= {"validate_every_epochs": 10, "checkpoint_every_steps": 200}
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
