"""A pose in, a skeleton in three dimensions out: how a marionette's joints follow from its angles.

Angles are radians in the figure's own frame: x to its right, y up, z forward. A limb hangs down at angle 0; `swing`
lifts it forward, `spread` sideways. Lengths are shares of the body height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Pose = Mapping[str, float]

THIGH, SHIN, FOOT = 0.245, 0.246, 0.05
TORSO, NECK, HEAD = 0.30, 0.055, 0.068
UPPER_ARM, FOREARM = 0.172, 0.19
SHOULDER, HIP = 0.115, 0.065

HANGING = {"arm": 0.05, "arm_out": 0.14, "elbow": 0.2, "hand_out": 0.0, "leg": 0.0, "leg_out": 0.05, "knee": 0.05}
NEUTRAL: Pose = {
    "lift": 0.0,  # of the whole body above the ground, in body heights
    "turn": 0.0,  # about the vertical
    "lean": 0.0,  # of the upper body, forward
    "tilt": 0.0,  # of the upper body, to the right
    "nod": 0.0,
    **{f"{side}_{joint}": angle for side in ("left", "right") for joint, angle in HANGING.items()},
}


class Bone(NamedTuple):
    """One capsule of the body between two joints; `part` chooses its colour, `radius` is in body heights."""

    start: int
    end: int
    part: str
    radius: float


JOINTS = (
    "hips", "neck", "head",
    "left_shoulder", "left_elbow", "left_hand", "right_shoulder", "right_elbow", "right_hand",
    "left_hip", "left_knee", "left_foot", "left_toe", "right_hip", "right_knee", "right_foot", "right_toe",
)  # fmt: skip
INDEX = {name: number for number, name in enumerate(JOINTS)}


def _bone(start: str, end: str, part: str, radius: float) -> Bone:
    return Bone(INDEX[start], INDEX[end], part, radius)


LIMBS = tuple(
    bone
    for side in ("left", "right")
    for bone in (
        _bone(f"{side}_hip", f"{side}_knee", "trousers", 0.042),
        _bone(f"{side}_knee", f"{side}_foot", "trousers", 0.034),
        _bone(f"{side}_foot", f"{side}_toe", "shoes", 0.026),
        _bone(f"{side}_shoulder", f"{side}_elbow", "shirt", 0.034),
        _bone(f"{side}_elbow", f"{side}_hand", "skin", 0.026),
    )
)
BONES = (
    *LIMBS,
    _bone("hips", "neck", "shirt", 0.075),
    _bone("left_shoulder", "right_shoulder", "shirt", 0.042),
    _bone("left_hip", "right_hip", "trousers", 0.048),
    _bone("neck", "head", "skin", 0.028),
    _bone("head", "head", "skin", HEAD),
)


@dataclass(frozen=True)
class Skeleton:
    """points (joints, 3): x across the picture, y above the ground, z towards the camera; all in body heights."""

    points: Points

    def joint(self, name: str) -> Points:
        point: Points = self.points[INDEX[name]]
        return point


def pose(**angles: float) -> dict[str, float]:
    """The neutral pose with some angles replaced."""
    return {**NEUTRAL, **angles}


def stand(figure: Pose, heading: float) -> Skeleton:
    """A skeleton whose lowest foot stands on the ground, then lifted; `heading` 0 faces the camera."""
    points = np.zeros((len(JOINTS), 3))
    points[INDEX["neck"]] = (0.0, TORSO, 0.0)
    points[INDEX["head"]] = (0.0, TORSO + (NECK + HEAD) * math.cos(figure["nod"]), NECK * math.sin(figure["nod"]))
    for side, sign in (("left", -1.0), ("right", 1.0)):
        _arm(points, figure, side, sign)
    _bend(points, figure["lean"], figure["tilt"])
    for side, sign in (("left", -1.0), ("right", 1.0)):
        _leg(points, figure, side, sign)
    points[:, 1] += figure["lift"] + 0.026 - points[:, 1].min()
    cosine, sine = math.cos(heading + figure["turn"]), math.sin(heading + figure["turn"])
    # Seen from the front, a figure's right is the picture's left.
    across = -points[:, 0] * cosine + points[:, 2] * sine
    near = points[:, 0] * sine + points[:, 2] * cosine
    return Skeleton(np.stack([across, points[:, 1], near], axis=1))


def _arm(points: Points, figure: Pose, side: str, sign: float) -> None:
    shoulder = np.array([sign * SHOULDER, TORSO - 0.03, 0.0])
    swing, out = figure[f"{side}_arm"], figure[f"{side}_arm_out"]
    elbow = shoulder + UPPER_ARM * _hanging(swing, out, sign)
    hand = elbow + FOREARM * _hanging(swing + figure[f"{side}_elbow"], out + figure[f"{side}_hand_out"], sign)
    for name, point in (("shoulder", shoulder), ("elbow", elbow), ("hand", hand)):
        points[INDEX[f"{side}_{name}"]] = point


def _leg(points: Points, figure: Pose, side: str, sign: float) -> None:
    hip = np.array([sign * HIP, 0.0, 0.0])
    swing, out = figure[f"{side}_leg"], figure[f"{side}_leg_out"]
    knee = hip + THIGH * _hanging(swing, out, sign)
    foot = knee + SHIN * _hanging(swing - figure[f"{side}_knee"], out, sign)
    toe = foot + np.array([0.0, 0.0, FOOT])
    for name, point in (("hip", hip), ("knee", knee), ("foot", foot), ("toe", toe)):
        points[INDEX[f"{side}_{name}"]] = point


def _hanging(swing: float, out: float, sign: float) -> Points:
    return np.array([sign * math.sin(out), -math.cos(out) * math.cos(swing), math.cos(out) * math.sin(swing)])


def _bend(points: Points, lean: float, tilt: float) -> None:
    """Turn what has been placed so far about the hips: forward by `lean`, to the right by `tilt`."""
    x, y, z = points.T.copy()
    points[:, 1], points[:, 2] = y * math.cos(lean) - z * math.sin(lean), y * math.sin(lean) + z * math.cos(lean)
    y = points[:, 1].copy()
    points[:, 0], points[:, 1] = x * math.cos(tilt) + y * math.sin(tilt), y * math.cos(tilt) - x * math.sin(tilt)
