"""A script in, its pictures out: figures, scene, camera, light and noise, one RGB frame at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.marionette.figure import BONES, NEUTRAL, Pose, Skeleton, stand
from training.marionette.motions import MOTIONS, Moment, ramp
from training.marionette.script import Actor, Camera, Colour, Event, Light, Script

Picture = NDArray[np.uint8]

FRACTION_BITS = 4  # positions are drawn to a sixteenth of a pixel
FADE_S = 0.3  # of repeated motions, at both ends
GROUND_M = 0.4  # how much of the picture lies below the figures' feet
PANORAMA = 1.6  # the background is so many pictures wide and high
THROWN_M_S = 5.0
RELEASE = 0.56  # share of a throw after which the ball flies


@dataclass(frozen=True)
class View:
    """Where metres of the scene fall on the picture: `centre_m` across, feet at `ground_px`."""

    scale_px: float  # per metre
    centre_m: float
    width_px: int
    ground_px: float
    roll: float

    def place(self, x_m: float, y_m: float) -> tuple[int, int]:
        """Pixels in sixteenths, as OpenCV wants them."""
        x, y = self.width_px / 2 + (x_m - self.centre_m) * self.scale_px, self.ground_px - y_m * self.scale_px
        across = x + self.roll * (y - self.ground_px)
        down = y - self.roll * (x - self.width_px / 2)
        return round(across * (1 << FRACTION_BITS)), round(down * (1 << FRACTION_BITS))


class Capsule(NamedTuple):
    near: float
    start: tuple[int, int]
    end: tuple[int, int]
    radius_px: float
    colour: Colour


def frames(script: Script, times_s: Iterator[float]) -> Iterator[Picture]:
    """The picture (H, W, 3) at each time."""
    scene = _Scene(script)
    for time_s in times_s:
        yield scene.picture(time_s)


class _Scene:
    def __init__(self, script: Script) -> None:
        self.script = script
        self._numbers = np.random.Generator(np.random.PCG64(script.picture_seed))
        storage = script.storage
        self._width_px, self._height_px = storage.width_px, storage.height_px
        self._background = _background(self._numbers, storage.width_px, storage.height_px)
        self._noise = self._numbers.normal(
            0, max(script.light.noise, 0.01), (storage.height_px * 2, storage.width_px * 2, 1)
        )
        self._noise = self._noise.astype(np.float32)
        self._shake = self._numbers.normal(0, 1, (4096, 2)).cumsum(axis=0)
        self._shake -= cv2.blur(self._shake, (1, 31))
        self._movers = self._numbers.uniform(0, 1, (script.movers, 7))

    def picture(self, time_s: float) -> Picture:
        view = self._view(time_s)
        canvas = self._backdrop(view, time_s)
        self._draw_ladder(canvas, view)
        for actor in sorted(self.script.actors, key=lambda one: one.depth):
            self._draw_actor(canvas, view, actor, time_s)
        self._draw_barbell_on_ground(canvas, view, time_s)
        self._draw_foreground(canvas, view, time_s)
        return self._expose(canvas, time_s)

    def _view(self, time_s: float) -> View:
        camera: Camera = self.script.camera
        shake_x, shake_y = self._shake[int(time_s * 30) % len(self._shake)] * camera.shake_m
        zoom = 1 + camera.zoom * math.sin(2 * math.pi * time_s / camera.zoom_period_s)
        scale_px = self._height_px / camera.height_m * zoom
        centre_m = camera.pan_m * math.sin(2 * math.pi * time_s / camera.pan_period_s) + shake_x
        ground_px = self._height_px - GROUND_M * scale_px + shake_y * scale_px
        return View(scale_px, centre_m, self._width_px, ground_px, camera.roll)

    def _backdrop(self, view: View, time_s: float) -> Picture:
        """The panorama, which follows the camera half as far as the figures do, and what moves in front of it."""
        zoom = 0.5 + 0.5 * view.scale_px * self.script.camera.height_m / self._height_px
        rows, columns = self._background.shape[:2]
        shift_x = self._width_px / 2 - zoom * columns / 2 - 0.5 * view.centre_m * view.scale_px
        shift_y = self._height_px / 2 - zoom * rows / 2 + 0.5 * (view.ground_px - self._height_px * 0.85)
        matrix = np.array([[zoom, 0.0, shift_x], [0.0, zoom, shift_y]])
        size = (self._width_px, self._height_px)
        canvas = cv2.warpAffine(self._background, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        for x, y, speed, wide, high, tone, phase in self._movers:
            across = ((x + (speed - 0.5) * 0.12 * time_s) % 1.4 - 0.2) * self._width_px
            down = (0.15 + 0.5 * y + 0.03 * math.sin(time_s + 6 * phase)) * self._height_px
            shade = tuple(int(60 + 150 * value) for value in (tone, phase, wide))
            axes = (int(4 + 0.06 * wide * self._width_px), int(3 + 0.06 * high * self._height_px))
            cv2.ellipse(canvas, (int(across), int(down)), axes, 0, 0, 360, shade, -1, cv2.LINE_AA)
        return np.asarray(canvas, np.uint8)

    def _draw_actor(self, canvas: Picture, view: View, actor: Actor, time_s: float) -> None:
        event = current(actor, time_s)
        place_m = place(actor, time_s)
        figure = act(event, time_s)
        heading = actor.heading
        if event is not None and MOTIONS[event.motion].walks:
            aside = math.copysign(1.25, event.to_m - event.from_m)
            heading += (aside - heading) * _fade(event, time_s)
        skeleton = stand(figure, heading)
        size_m = actor.height_m * actor.depth
        for capsule in sorted(_capsules(skeleton, view, actor, place_m, size_m)):
            _draw_capsule(canvas, capsule)
        self._draw_held(canvas, view, actor, event, skeleton, place_m, time_s)

    def _draw_held(
        self,
        canvas: Picture,
        view: View,
        actor: Actor,
        event: Event | None,
        skeleton: Skeleton,
        place_m: float,
        time_s: float,
    ) -> None:
        size_m = actor.height_m * actor.depth
        side = event.side if event is not None else "right"
        hand = skeleton.joint(f"{side}_hand")
        if actor.ball:
            x_m, y_m = place_m + hand[0] * size_m, hand[1] * size_m
            flown_s = _flown_s(event, time_s)
            if flown_s > 0:
                aim = math.sin(actor.heading)
                x_m, y_m = x_m + aim * THROWN_M_S * flown_s, y_m + 1.5 * flown_s - 4.9 * flown_s**2
            if y_m > 0 and flown_s < 1.0:
                _disc(canvas, view.place(x_m, y_m), 0.07 * size_m * view.scale_px, (230, 120, 30))
        if event is not None and event.motion == "lift" and _lifts(event, time_s):
            left, right = skeleton.joint("left_hand"), skeleton.joint("right_hand")
            middle = 0.5 * (left + right)
            _barbell(canvas, view, place_m + middle[0] * size_m, middle[1] * size_m)

    def _draw_ladder(self, canvas: Picture, view: View) -> None:
        if "ladder" not in self.script.props:
            return
        x_m = self.script.props["ladder"]
        thickness = max(1, round(0.035 * view.scale_px))
        ends = [(x_m - 0.22, 0.0, x_m - 0.22, 3.4), (x_m + 0.22, 0.0, x_m + 0.22, 3.4)]
        ends += [(x_m - 0.22, rung * 0.3, x_m + 0.22, rung * 0.3) for rung in range(1, 12)]
        for from_x, from_y, to_x, to_y in ends:
            start, end = view.place(from_x, from_y), view.place(to_x, to_y)
            cv2.line(canvas, start, end, (150, 105, 60), thickness, cv2.LINE_AA, FRACTION_BITS)

    def _draw_barbell_on_ground(self, canvas: Picture, view: View, time_s: float) -> None:
        if "barbell" not in self.script.props:
            return
        for actor in self.script.actors:
            event = current(actor, time_s)
            if event is not None and event.motion == "lift" and _lifts(event, time_s):
                return
        _barbell(canvas, view, self.script.props["barbell"], 0.12)

    def _draw_foreground(self, canvas: Picture, view: View, time_s: float) -> None:
        if self.script.pole_m is not None:
            _pillar(canvas, view, self.script.pole_m, 0.16, (70, 70, 75))
        reach_m = 0.7 * self.script.camera.height_m * self._width_px / self._height_px
        for passer in self.script.passers:
            share = (time_s - passer.start_s) / passer.crossing_s
            if 0 <= share <= 1:
                x_m = reach_m * (2 * share - 1) * (-1 if passer.leftwards else 1)
                _pillar(canvas, view, view.centre_m + x_m, passer.width_m, passer.colour)

    def _expose(self, canvas: Picture, time_s: float) -> Picture:
        light: Light = self.script.light
        gain = light.switched_gain if time_s >= light.switch_s else light.gain
        gain *= 1 + light.swing * math.sin(2 * math.pi * time_s / light.period_s)
        lit = cv2.convertScaleAbs(canvas, alpha=gain)
        if light.noise < 0.5:
            return np.asarray(lit, np.uint8)
        top, left = self._numbers.integers(0, self._height_px), self._numbers.integers(0, self._width_px)
        grain = self._noise[top : top + self._height_px, left : left + self._width_px]
        return np.asarray(np.clip(lit + grain, 0, 255), np.uint8)


def current(actor: Actor, time_s: float) -> Event | None:
    return next((event for event in actor.events if event.start_s <= time_s < event.end_s), None)


def place(actor: Actor, time_s: float) -> float:
    """Where a figure stands, in metres from the middle."""
    place_m = actor.events[0].from_m if actor.events else 0.0
    for event in actor.events:
        if event.start_s > time_s:
            break
        share = min(1.0, (time_s - event.start_s) / event.length_s)
        place_m = event.from_m + (event.to_m - event.from_m) * ramp(share, 0.0, 1.0)
    return place_m


def act(event: Event | None, time_s: float) -> Pose:
    if event is None:
        return NEUTRAL
    motion = MOTIONS[event.motion]
    progress = (time_s - event.start_s) / event.length_s
    strength = _fade(event, time_s)
    return motion.move(Moment(progress, progress * event.cycles, event.cycles, strength, event.side, event.vigour))


def _fade(event: Event, time_s: float) -> float:
    edge_s = min(FADE_S, event.length_s / 4)
    return ramp(time_s, event.start_s, event.start_s + edge_s) * (1 - ramp(time_s, event.end_s - edge_s, event.end_s))


def _flown_s(event: Event | None, time_s: float) -> float:
    if event is None or event.motion != "throw":
        return 0.0
    return time_s - event.start_s - RELEASE * event.length_s


def _lifts(event: Event, time_s: float) -> bool:
    return 0.2 < (time_s - event.start_s) / event.length_s < 0.82


def _capsules(skeleton: Skeleton, view: View, actor: Actor, place_m: float, size_m: float) -> Iterator[Capsule]:
    for bone in BONES:
        start, end = skeleton.points[bone.start], skeleton.points[bone.end]
        girth = 1.0 if bone.start == bone.end else actor.girth
        yield Capsule(
            float(start[2] + end[2]) / 2,
            view.place(place_m + start[0] * size_m, start[1] * size_m),
            view.place(place_m + end[0] * size_m, end[1] * size_m),
            bone.radius * girth * size_m * view.scale_px,
            actor.colours[bone.part],
        )


def _draw_capsule(canvas: Picture, capsule: Capsule) -> None:
    """A rim in a darker tone, which keeps limbs apart in front of the body, and the limb."""
    dark = tuple(round(0.55 * value) for value in capsule.colour)
    for grow, colour in ((1.0, dark), (0.0, capsule.colour)):
        thickness = max(1, round(2 * (capsule.radius_px + grow)))
        cv2.line(canvas, capsule.start, capsule.end, colour, thickness, cv2.LINE_AA, FRACTION_BITS)


def _disc(canvas: Picture, centre: tuple[int, int], radius_px: float, colour: Colour) -> None:
    cv2.line(canvas, centre, centre, colour, max(2, round(2 * radius_px)), cv2.LINE_AA, FRACTION_BITS)


def _barbell(canvas: Picture, view: View, x_m: float, y_m: float) -> None:
    left, right = view.place(x_m - 0.6, y_m), view.place(x_m + 0.6, y_m)
    cv2.line(canvas, left, right, (170, 170, 175), max(1, round(0.03 * view.scale_px)), cv2.LINE_AA, FRACTION_BITS)
    for side in (-0.58, 0.58):
        low, high = view.place(x_m + side, y_m - 0.11), view.place(x_m + side, y_m + 0.11)
        cv2.line(canvas, low, high, (40, 40, 45), max(2, round(0.09 * view.scale_px)), cv2.LINE_AA, FRACTION_BITS)


def _pillar(canvas: Picture, view: View, x_m: float, width_m: float, colour: Colour) -> None:
    low, high = view.place(x_m, -1.0), view.place(x_m, 4.5)
    cv2.line(canvas, low, high, colour, max(1, round(width_m * view.scale_px)), cv2.LINE_AA, FRACTION_BITS)


def _background(numbers: np.random.Generator, width_px: int, height_px: int) -> Picture:
    """Clouds of several sizes over a ground of its own colour, with blocks and bars in it."""
    size = (round(width_px * PANORAMA), round(height_px * PANORAMA))
    picture = np.zeros((size[1], size[0], 3), np.float32)
    for octave in range(2, 8):
        grain = 0.9 * numbers.normal(0, 1, (2**octave, 2**octave, 1)) + 0.35 * numbers.normal(
            0, 1, (2**octave, 2**octave, 3)
        )
        coarse = cv2.resize(grain.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        picture += coarse * (32.0 / 2 ** (0.5 * (octave - 2)))
    base = numbers.uniform(60, 190, 3)
    horizon = round(size[1] * numbers.uniform(0.6, 0.75))
    picture[:horizon] += base
    picture[horizon:] += numbers.uniform(50, 170, 3)
    canvas: Picture = np.clip(picture * numbers.uniform(0.7, 1.0), 0, 255).astype(np.uint8)
    for _ in range(int(numbers.integers(2, 9))):
        x, y = numbers.uniform(0, size[0]), numbers.uniform(0, horizon)
        corner = (int(x + numbers.uniform(10, 110)), int(min(horizon, y + numbers.uniform(10, 120))))
        shade = tuple(int(value) for value in numbers.uniform(20, 230, 3))
        cv2.rectangle(canvas, (int(x), int(y)), corner, shade, -1)
    return canvas
