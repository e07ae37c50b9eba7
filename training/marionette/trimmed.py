"""A number in; one short clip of one figure close to the camera, and the action that it shows, out.

What a backbone learns first: nothing is stored, and every number is a clip that was never seen. All motions occur, the
near misses and daily ones too, whose clips show no action.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from training.marionette.motions import ACTIONS, DAILY, MOTIONS, NEAR_MISSES, Motion
from training.marionette.render import Picture, frames
from training.marionette.script import Actor, Camera, Draw, Event, Light, Script, Storage, a_light, an_appearance

ACTION_SHARE = 0.65
STREAM = 0x7121  # apart from the numbers that draw videos
JPEG_QUALITY = (25, 96)


def clip(seed: int, number: int, length: int, fps: float, size_px: int) -> tuple[NDArray[np.uint8], str | None]:
    """Frames (length, size, size, 3) of a moment within one motion, and its label."""
    draw = Draw(seed, STREAM, number)
    script = _script(draw, length / fps, size_px)
    event = script.actors[0].events[0]
    first_s = draw.between(0.0, max(0.0, event.end_s - 0.6 * length / fps))
    pictures = frames(script, iter(first_s + np.arange(length) / fps))
    quality = draw.integer(*JPEG_QUALITY)
    return np.stack([_compressed(picture, quality) for picture in pictures]), event.label


def _script(draw: Draw, clip_s: float, size_px: int) -> Script:
    name, motion = _motion(draw)
    low, high = motion.lengths_s
    length_s = min(draw.between(low, high), draw.between(low, high))
    cycles = 1
    if motion.cycle_s is not None:
        cycle_s = draw.between(*motion.cycle_s)
        cycles = max(1, round(length_s / cycle_s))
        length_s = length_s if motion.walks else cycles * cycle_s
    place_m = draw.between(-0.35, 0.35)
    goal_m = draw.between(-0.8, 0.8) if motion.walks else place_m
    label = name if name in ACTIONS else None
    side, vigour = draw.pick(("left", "right")), draw.between(0.82, 1.15)
    event = Event(name, label, 0.0, length_s, cycles, side, vigour, place_m, goal_m)
    height_m, girth, heading, depth, colours = an_appearance(draw)
    actor = Actor(height_m, girth, heading, depth, colours, (event,), ball=motion.prop == "ball" or draw.chance(0.3))
    props: dict[str, float] = {name: place_m for name in ("ladder", "barbell") if motion.prop == name}
    props |= {name: draw.between(-1.0, 1.0) for name in ("ladder", "barbell") if name not in props and draw.chance(0.3)}
    return Script(
        name="trimmed",
        split="train",
        duration_s=length_s + clip_s,
        picture_seed=draw.integer(0, 1 << 30),
        actors=(actor,),
        camera=_camera(draw),
        light=_light(draw),
        passers=(),
        props=props,
        pole_m=None,
        movers=draw.pick((0, 0, 2)),
        storage=Storage("h264", "mp4", size_px, size_px, 30, 20, variable_rate=False),
    )


def _motion(draw: Draw) -> tuple[str, Motion]:
    kinds = ACTIONS if draw.chance(ACTION_SHARE) else {**NEAR_MISSES, **DAILY}
    name = draw.pick(tuple(kinds))
    return name, MOTIONS[name]


def _camera(draw: Draw) -> Camera:
    pan_m = draw.between(0.0, 0.3) if draw.chance(0.5) else 0.0
    shake_m = draw.between(0.003, 0.02) if draw.chance(0.3) else 0.0
    return Camera(draw.between(2.1, 3.0), pan_m, draw.between(5, 20), 0.0, 10.0, shake_m, draw.between(-0.05, 0.05))


def _light(draw: Draw) -> Light:
    return replace(a_light(draw, 10.0), switch_s=1e9)


def _compressed(picture: Picture, quality: int) -> NDArray[np.uint8]:
    """Artefacts of compression, at the price of a picture format."""
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
