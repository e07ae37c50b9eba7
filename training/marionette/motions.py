"""How far a motion is in, a pose out: the actions that are annotated, and what looks like them but is not.

A motion begins and ends in the neutral pose, so that its event's ends are its visible ends. Single movements (a kick)
take the whole event; repeated ones (waving) have a number of cycles and fade in and out at the ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.marionette.figure import pose


@dataclass(frozen=True)
class Moment:
    """Where in a motion a figure is: `progress` 0 to 1, `cycle` of all `cycles`, `strength` with the fade at the ends.

    `side` names the leading arm or leg; `vigour` is about 1 and belongs to the actor.
    """

    progress: float
    cycle: float
    cycles: int
    strength: float
    side: str
    vigour: float

    @property
    def other(self) -> str:
        return "left" if self.side == "right" else "right"

    @property
    def wave(self) -> float:
        return math.sin(2 * math.pi * self.cycle)

    @property
    def pulse(self) -> float:
        """0 at the ends of a cycle, 1 in its middle."""
        return 0.5 - 0.5 * math.cos(2 * math.pi * self.cycle)


Move = Callable[[Moment], dict[str, float]]


@dataclass(frozen=True)
class Motion:
    """`lengths_s`: shortest and longest event. `cycle_s`: of one repetition, for repeated motions. `prop`: what lies,
    stands or is held in the scene. `walks`: the figure changes its place."""

    move: Move
    lengths_s: tuple[float, float]
    cycle_s: tuple[float, float] | None = None
    prop: str | None = None
    walks: bool = False


def bump(x: float, start: float, end: float) -> float:
    """Rises smoothly from 0 at `start` to 1 in the middle, and falls to 0 at `end`."""
    return math.sin(math.pi * (x - start) / (end - start)) ** 2 if start < x < end else 0.0


def ramp(x: float, start: float, end: float) -> float:
    """Rises smoothly from 0 at `start` to 1 at `end`, and stays."""
    share = min(1.0, max(0.0, (x - start) / (end - start)))
    return share * share * (3 - 2 * share)


def hold(x: float, edge: float = 0.25) -> float:
    """Up, held, and down again."""
    return ramp(x, 0.0, edge) * (1 - ramp(x, 1 - edge, 1.0))


def between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def both(**angles: float) -> dict[str, float]:
    return {f"{side}_{joint}": angle for side in ("left", "right") for joint, angle in angles.items()}


def crouched(depth: float) -> dict[str, float]:
    return both(leg=1.15 * depth, knee=2.0 * depth + 0.05)


# Actions.


def jump(at: Moment) -> dict[str, float]:
    beat = at.cycle % 1.0
    crouch = bump(beat, 0.0, 0.36) + 0.8 * bump(beat, 0.68, 1.0)
    share = min(1.0, max(0.0, (beat - 0.3) / 0.42))
    flight = 4 * share * (1 - share)
    arms = between(0.05, -0.9, bump(beat, 0.0, 0.36)) + 2.5 * bump(beat, 0.2, 0.8)
    return pose(**both(arm=arms), **crouched(0.65 * crouch), lift=0.26 * at.vigour * flight, lean=0.35 * crouch)


def squat(at: Moment) -> dict[str, float]:
    depth = at.pulse * at.strength * min(1.0, 0.95 * at.vigour)
    return pose(**both(arm=0.05 + 1.5 * depth, elbow=0.1), **crouched(depth), lean=0.45 * depth)


def wave(at: Moment) -> dict[str, float]:
    up = at.strength
    arm = {
        f"{at.side}_arm_out": between(0.14, 1.75, up),
        f"{at.side}_elbow": 0.2 * (1 - up),
        f"{at.side}_hand_out": up * (1.0 + 0.65 * at.vigour * at.wave),
    }
    return pose(**arm)


def clap(at: Moment) -> dict[str, float]:
    up = at.strength
    apart = between(-0.55, 0.35 * at.vigour, at.pulse)
    return pose(**both(arm=between(0.05, 0.95, up), elbow=between(0.2, 0.75, up), arm_out=between(0.14, apart, up)))


def kick(at: Moment) -> dict[str, float]:
    back, forward = bump(at.progress, 0.0, 0.4), bump(at.progress, 0.25, 1.0)
    leg = {
        f"{at.side}_leg": -0.5 * back + 1.55 * at.vigour * forward,
        f"{at.side}_knee": 0.05 + 0.9 * back + 0.1 * forward,
    }
    arms = {f"{at.other}_arm": 0.05 + 0.9 * forward, f"{at.side}_arm": 0.05 - 0.6 * forward}
    return pose(**leg, **arms, lean=-0.25 * forward)


def punch(at: Moment) -> dict[str, float]:
    guard = at.strength
    beat = at.cycle % 1.0
    arms = {}
    for side, reach in ((at.side, bump(beat, 0.0, 0.5)), (at.other, bump(beat, 0.5, 1.0))):
        arms[f"{side}_arm"] = between(0.05, between(0.35, 1.5, reach), guard)
        arms[f"{side}_elbow"] = between(0.2, between(2.1, 0.05, reach), guard)
        arms[f"{side}_arm_out"] = between(0.14, 0.05, guard)
    step = {f"{at.other}_leg": 0.25 * guard, f"{at.side}_leg": -0.25 * guard}
    return pose(**arms, **step, lean=0.1 * guard, turn=0.25 * guard * at.wave)


def bow(at: Moment) -> dict[str, float]:
    down = hold(at.progress, 0.4)
    return pose(lean=1.35 * min(1.1, at.vigour) * down, nod=0.5 * down)


def spin(at: Moment) -> dict[str, float]:
    turn = 2 * math.pi * at.cycles * ramp(at.progress, 0.0, 1.0)
    return pose(**both(arm_out=0.14 + 0.75 * at.strength), turn=turn)


def throw(at: Moment) -> dict[str, float]:
    wind, release = _wind_up(at.progress), ramp(at.progress, 0.45, 0.62)
    arm = 2.6 * wind * (1 - release) + 0.9 * bump(at.progress, 0.5, 1.0)
    elbow = 0.2 + 1.5 * wind * (1 - release)
    return pose(
        **{f"{at.side}_arm": arm, f"{at.side}_elbow": elbow, f"{at.other}_arm": 0.05 + 0.9 * wind * (1 - release)},
        **{f"{at.other}_leg": 0.35 * bump(at.progress, 0.1, 0.9), f"{at.side}_leg": -0.3 * bump(at.progress, 0.1, 0.9)},
        lean=between(-0.25, 0.5 * at.vigour, release) * hold(at.progress, 0.3),
    )


def _wind_up(progress: float) -> float:
    return ramp(progress, 0.0, 0.4) * (1 - ramp(progress, 0.62, 0.9))


def climb(at: Moment) -> dict[str, float]:
    up = at.strength
    height = 0.3 * at.vigour * bump(at.progress, 0.04, 0.96)
    reach = {at.side: 0.5 + 0.5 * at.wave, at.other: 0.5 - 0.5 * at.wave}
    limbs = {}
    for side, share in reach.items():
        limbs[f"{side}_arm"] = between(0.05, between(1.6, 2.8, share), up)
        limbs[f"{side}_leg"] = up * between(0.9, 0.1, share)
        limbs[f"{side}_knee"] = 0.05 + up * between(1.5, 0.2, share)
    return pose(**limbs, lift=height)


def star_jump(at: Moment) -> dict[str, float]:
    open_, hop = at.pulse * at.strength, abs(at.wave) * at.strength
    return pose(**both(arm_out=0.14 + 2.6 * open_, elbow=0.1, leg_out=0.05 + 0.5 * open_), lift=0.06 * hop)


def lift(at: Moment) -> dict[str, float]:
    """A barbell from the ground to above the head, and down again."""
    down = bump(at.progress, 0.0, 0.45) + bump(at.progress, 0.62, 1.0)
    overhead = ramp(at.progress, 0.3, 0.5) * (1 - ramp(at.progress, 0.55, 0.75))
    arms = 0.05 + 0.35 * down + 2.95 * overhead
    return pose(**both(arm=arms, elbow=0.2 * (1 - overhead)), **crouched(0.8 * down), lean=0.75 * down)


# What is not annotated: look-alikes, movements broken off, and daily life.


def idle(at: Moment) -> dict[str, float]:
    return pose(tilt=0.04 * at.wave, turn=0.12 * math.sin(math.pi * at.cycle), nod=0.15 * at.wave)


def walk(at: Moment) -> dict[str, float]:
    step = at.wave * at.strength
    limbs = {}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        limbs[f"{side}_leg"] = 0.45 * sign * step
        limbs[f"{side}_knee"] = 0.05 + 0.55 * at.strength * max(0.0, sign * math.cos(2 * math.pi * at.cycle))
        limbs[f"{side}_arm"] = 0.05 - 0.4 * sign * step
    return pose(**limbs)


def crouch_and_rise(at: Moment) -> dict[str, float]:
    """The beginning of a jump that is not jumped."""
    down = hold(at.progress, 0.4)
    return pose(**both(arm=-0.6 * down), **crouched(0.5 * down), lean=0.35 * down)


def half_bow(at: Moment) -> dict[str, float]:
    down = hold(at.progress, 0.4)
    return pose(lean=0.45 * down, nod=0.5 * down)


def raise_arm(at: Moment) -> dict[str, float]:
    """An arm up and held still: no waving."""
    up = hold(at.progress)
    return pose(**{f"{at.side}_arm_out": between(0.14, 1.75, up), f"{at.side}_hand_out": up, f"{at.side}_elbow": 0.0})


def fold_hands(at: Moment) -> dict[str, float]:
    """Hands together and held: no clapping."""
    up = hold(at.progress)
    return pose(**both(arm=between(0.05, 0.95, up), elbow=between(0.2, 0.75, up), arm_out=between(0.14, -0.5, up)))


def raise_knee(at: Moment) -> dict[str, float]:
    up = bump(at.progress, 0.0, 1.0)
    return pose(**{f"{at.side}_leg": 1.0 * up, f"{at.side}_knee": 0.05 + 1.2 * up})


def guard(at: Moment) -> dict[str, float]:
    """Fists up and held: no punch."""
    up = hold(at.progress)
    return pose(**both(arm=between(0.05, 0.35, up), elbow=between(0.2, 2.1, up)))


def turn_away(at: Moment) -> dict[str, float]:
    """Half a turn, a pause, and back."""
    return pose(**both(arm_out=0.14 + 0.3 * hold(at.progress)), turn=math.pi * 0.8 * hold(at.progress, 0.35))


def feint(at: Moment) -> dict[str, float]:
    """The wind-up of a throw, let down again."""
    wind = hold(at.progress, 0.4)
    return pose(**{f"{at.side}_arm": 2.4 * wind, f"{at.side}_elbow": 0.2 + 1.5 * wind}, lean=-0.25 * wind)


def reach_up(at: Moment) -> dict[str, float]:
    up = hold(at.progress)
    return pose(**both(arm=between(0.05, 2.5, up)))


def stoop(at: Moment) -> dict[str, float]:
    """Down to what lies on the ground, and up without it."""
    down = hold(at.progress, 0.4)
    return pose(**both(arm=0.05 + 0.35 * down), **crouched(0.8 * down), lean=0.75 * down)


ACTIONS: Mapping[str, Motion] = {
    "jump": Motion(jump, (0.8, 5.0), (0.8, 1.25)),
    "squat": Motion(squat, (1.6, 12.0), (1.6, 2.8)),
    "wave": Motion(wave, (1.2, 12.0), (0.45, 0.85)),
    "clap": Motion(clap, (1.2, 12.0), (0.4, 0.7)),
    "kick": Motion(kick, (0.6, 1.4)),
    "punch": Motion(punch, (0.9, 8.0), (0.8, 1.3)),
    "bow": Motion(bow, (1.4, 4.5)),
    "spin": Motion(spin, (0.9, 7.0), (0.9, 1.6)),
    "throw": Motion(throw, (0.9, 2.0), prop="ball"),
    "climb": Motion(climb, (3.0, 15.0), (0.9, 1.4), prop="ladder"),
    "star jump": Motion(star_jump, (1.2, 12.0), (0.7, 1.1)),
    "lift": Motion(lift, (2.4, 6.0), prop="barbell"),
}
LABELS = tuple(sorted(ACTIONS))

NEAR_MISSES: Mapping[str, Motion] = {
    "crouch_and_rise": Motion(crouch_and_rise, (0.9, 3.0)),
    "half_bow": Motion(half_bow, (1.0, 3.0)),
    "raise_arm": Motion(raise_arm, (1.2, 6.0)),
    "fold_hands": Motion(fold_hands, (1.2, 6.0)),
    "raise_knee": Motion(raise_knee, (0.7, 1.6)),
    "guard": Motion(guard, (1.0, 5.0)),
    "turn_away": Motion(turn_away, (1.5, 4.0)),
    "feint": Motion(feint, (1.0, 2.2), prop="ball"),
    "reach_up": Motion(reach_up, (1.2, 4.0), prop="ladder"),
    "stoop": Motion(stoop, (1.2, 4.0), prop="barbell"),
}
DAILY: Mapping[str, Motion] = {
    "idle": Motion(idle, (0.8, 8.0), (1.5, 4.0)),
    "walk": Motion(walk, (1.0, 6.0), (0.8, 1.2), walks=True),
}
MOTIONS: Mapping[str, Motion] = {**ACTIONS, **NEAR_MISSES, **DAILY}
