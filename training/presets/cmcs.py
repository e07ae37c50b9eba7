"""Training plans of CMCS (Liu et al., CVPR 2019): of a video's annotations only its labels are used."""

from __future__ import annotations

from training.presets.parts import Document, plan, schedule, snippets

PUBLISHED = schedule(
    30,
    1e-4,
    24,
    0.5,
    warmup_epochs=0,
    final_learning_rate=1e-4,
    weight_decay=1e-3,
    ema=None,
    clip_norm=None,
    optimiser="adam",
    epoch_steps=500,
    validate_every_epochs=10,
)


def thumos14() -> Document:
    """I3D features of 16 frames every 4, two streams; the network sees every fourth. Hard negatives, which published
    figures have, need `static` in the plan."""
    return _published("thumos", "thumos14", snippets(4, 16), PUBLISHED)


def activitynet() -> Document:
    """I3D features of 16 frames every 16 at 25 frames a second, two streams. The rate falls to a tenth half-way."""
    training = PUBLISHED | {"epochs": 60, "schedule": "steps", "milestones": [30], "learning_rate": 1e-3}
    training |= {"final_learning_rate": 0.0, "weight_decay": 1e-4, "batch_size": 32}
    return _published("activitynet", "activitynet", snippets(16, 16, 25), training)


def marionette() -> Document:
    """Our own small data set, on two cores within two minutes."""
    training = schedule(20, 5e-3, 16, 0.5, warmup_epochs=0, weight_decay=1e-3, ema=0.99, optimiser="adam")
    document = plan("cmcs", "compact", "marionette", {}, training)
    document["training"] |= {"validate_every_epochs": 0, "checkpoint_every_steps": 200}
    return document


def _published(preset: str, data: str, features: Document, training: Document) -> Document:
    """A row stands at the first frame of its clip, as the authors' localisation has it."""
    return plan("cmcs", preset, data, features | {"offset_frames": 0, "step_frames": 16}, training)


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
