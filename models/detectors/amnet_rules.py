"""A preset of AMNet in; how serving windows videos for it and what it keeps of its candidates out.

Reconstruction: the paper's rules are not known; candidates are kept by ActionFormer's.
"""

from __future__ import annotations

from typing import Any

from models.detectors import actionformer_rules
from models.detectors.detector import Lengths

# Attention between all steps costs memory by the square, and in training it never sees more: five minutes at the pace
# of THUMOS. Longer videos are cut to overlapping windows.
LONGEST_WINDOW = 2304

thumos = actionformer_rules.thumos
activitynet = actionformer_rules.activitynet


def windowing(lengths: Lengths) -> dict[str, Any]:
    return actionformer_rules.windowing(lengths, LONGEST_WINDOW)
