"""Training plans of ASL (Shao et al., ICCV 2023)."""

from __future__ import annotations

from training.presets import actionformer
from training.presets.parts import Document, plan, schedule, snippets


def thumos14() -> Document:
    """ActionFormer's features; epochs, rates and batches of all six are those of the supplement (Shao et al., ICCV
    2023), warm-up, cuts and moving averages ActionFormer's: a reconstruction."""
    return plan("asl", "thumos", "thumos14", snippets(4, 16), schedule(30, 1e-4, 2, 0.5))


def activitynet() -> Document:
    """Finds actions of any class, so others name them."""
    training = schedule(13, 1e-3, 16, 0.5, weight_decay=0.01)
    return plan("asl", "activitynet", "activitynet", snippets(16, 16, 25), training)


def multithumos() -> Document:
    """I3D features of RGB alone."""
    return plan("asl", "multithumos", "multithumos", snippets(4, 16), schedule(60, 2e-4, 2, 0.5))


def charades() -> Document:
    """I3D features of RGB alone; how they were taken is a reconstruction."""
    return plan("asl", "charades", "charades", snippets(4, 16, 24), schedule(15, 4e-4, 32, 0.5))


def ego4d() -> Document:
    """EgoVLP, SlowFast and Omnivore features side by side, every 16 frames at 30 a second."""
    return plan("asl", "ego4d", "ego4d", snippets(16, 32, 30), schedule(10, 1e-4, 2, 0.3))


def epic_kitchens() -> Document:
    """Verbs; for nouns set epochs to 20 and the loss's label_smoothing to 0.1."""
    return plan("asl", "epic-kitchens", "epic-kitchens", snippets(16, 32, 30), schedule(15, 1e-4, 2, 0.3))


def marionette() -> Document:
    """Our own small data set, with the budget of `actionformer/marionette`."""
    document = actionformer.marionette()
    document["detector"]["network"] = "asl"
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "multithumos": multithumos,
    "charades": charades,
    "ego4d": ego4d,
    "epic-kitchens": epic_kitchens,
    "marionette": marionette,
}
