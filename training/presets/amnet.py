"""Training plans of AMNet (Kang et al., WACV 2023)."""

from __future__ import annotations

from training.presets import actionformer
from training.presets.parts import Document, plan, schedule, snippets


def thumos14() -> Document:
    """Reconstruction: ActionFormer's features and settings."""
    return plan("amnet", "thumos", "thumos14", snippets(4, 16), schedule(30, 1e-4, 2, 0.5))


def activitynet() -> Document:
    """Reconstruction: ActionFormer's settings. Finds actions of any class, so others name them."""
    return plan("amnet", "activitynet", "activitynet", snippets(16, 16, 25), schedule(10, 1e-3, 16, 0.5))


def marionette() -> Document:
    """Our own small data set, with the budget of `actionformer/marionette`."""
    document = actionformer.marionette()
    document["detector"]["network"] = "amnet"
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
