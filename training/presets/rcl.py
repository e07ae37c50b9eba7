"""Training plans of RCL (Wang et al., CVPR 2022): "other settings the same as BMN", its supplement says.

On the base of a G-TAD: `"options": {"host": "gtad"}` of the detector.
"""

from __future__ import annotations

from training.presets import bmn
from training.presets.parts import Document


def thumos14() -> Document:
    """Reconstruction: OpenTAD's settings for BMN, in windows of 256 steps."""
    return _of(bmn.thumos14())


def activitynet() -> Document:
    return _of(bmn.activitynet())


def marionette() -> Document:
    """Our own small data set, on two cores."""
    return _of(bmn.marionette())


def _of(document: Document) -> Document:
    document["detector"]["network"] = "rcl"
    return document


PRESETS = {
    "thumos14": thumos14,
    "activitynet": activitynet,
    "marionette": marionette,
}
