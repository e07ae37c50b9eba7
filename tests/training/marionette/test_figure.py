"""Poses become bodies whose bones keep their length and whose feet stand on the ground."""

import math

import numpy as np
import pytest

from training.marionette import figure
from training.marionette.figure import NEUTRAL, pose, stand
from training.marionette.motions import MOTIONS, Moment

SOME = (0.0, 0.13, 0.31, 0.5, 0.72, 0.9, 1.0)


def moment(progress: float, cycles: int = 2, strength: float = 1.0) -> Moment:
    return Moment(progress, progress * cycles, cycles, strength, "right", 1.0)


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("progress", SOME)
def test_bones_keep_their_length(name: str, progress: float) -> None:
    points = stand(MOTIONS[name].move(moment(progress)), 0.4).points
    for side in ("left", "right"):
        for start, end, length in (
            ("shoulder", "elbow", figure.UPPER_ARM),
            ("elbow", "hand", figure.FOREARM),
            ("hip", "knee", figure.THIGH),
            ("knee", "foot", figure.SHIN),
        ):
            first, second = (points[figure.INDEX[f"{side}_{joint}"]] for joint in (start, end))
            assert np.linalg.norm(first - second) == pytest.approx(length)


@pytest.mark.parametrize("name", MOTIONS)
def test_a_motion_begins_and_ends_in_the_neutral_pose(name: str) -> None:
    for progress in (0.0, 1.0):
        reached = MOTIONS[name].move(moment(progress, strength=0.0))
        turned = reached["turn"] % (2 * math.pi)
        assert min(turned, 2 * math.pi - turned) == pytest.approx(0, abs=1e-6)
        for joint, angle in NEUTRAL.items():
            if joint != "turn":
                # An elbow that begins straight moves the hand by a few centimetres, which nobody sees.
                slack = 0.21 if joint.endswith("elbow") else 0.06
                assert reached[joint] == pytest.approx(angle, abs=slack), joint


@pytest.mark.parametrize("name", [name for name in MOTIONS if name not in {"jump", "climb", "star jump"}])
@pytest.mark.parametrize("progress", SOME)
def test_feet_stay_on_the_ground_unless_the_figure_jumps_or_climbs(name: str, progress: float) -> None:
    points = stand(MOTIONS[name].move(moment(progress)), 0.0).points
    assert points[:, 1].min() == pytest.approx(0.026)


def test_a_figure_that_faces_the_camera_has_its_right_hand_on_the_left() -> None:
    skeleton = stand(pose(), 0.0)
    assert skeleton.joint("right_hand")[0] < skeleton.joint("left_hand")[0]


def test_a_quarter_turn_shows_a_forward_arm_from_the_side() -> None:
    reached = stand(pose(right_arm=math.pi / 2, right_elbow=0.0), math.pi / 2).joint("right_hand")
    assert abs(reached[0]) == pytest.approx(figure.UPPER_ARM + figure.FOREARM, abs=0.02)
