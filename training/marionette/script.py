"""A seed and a number in, one video's script out: who does what when, how it is filmed and how it is stored.

Everything is drawn here, with integers and products of them only, so that the truth is the same on every machine;
drawing the pictures (`render.py`) decides nothing.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from training.marionette.motions import ACTIONS, DAILY, LABELS, MOTIONS, NEAR_MISSES, Motion

Split = Literal["train", "val", "test"]
Colour = tuple[int, int, int]
Thing = TypeVar("Thing")

Codec = Literal["h264", "hevc", "mpeg4", "vp9"]
Container = Literal["mp4", "mkv", "webm", "avi"]

KINDS: tuple[tuple[Codec, Container], ...] = (
    ("h264", "mp4"), ("h264", "mp4"), ("h264", "mkv"), ("hevc", "mp4"), ("mpeg4", "avi"), ("vp9", "webm")
)  # fmt: skip
# Of each encoder's own scale, from good to poor.
QUALITIES: Mapping[Codec, tuple[int, int]] = {"h264": (20, 36), "hevc": (22, 36), "mpeg4": (3, 14), "vp9": (28, 46)}
MOST_INSTANCES = 12
LIVELY_S, LIVELY_INSTANCES = 45.0, (4, 9)
SAME_LABEL_APART_S = 1.0  # two figures never perform the same action at the same time, so a segment is one action
ARMS_M = 0.55  # room for a figure's arms between its place and the edge of the picture


@dataclass(frozen=True)
class Event:
    """One motion of one figure; `label` is None for what is not annotated. Places are metres from the middle."""

    motion: str
    label: str | None
    start_s: float
    end_s: float
    cycles: int
    side: str
    vigour: float
    from_m: float
    to_m: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Actor:
    height_m: float
    girth: float
    heading: float
    depth: float  # scale by distance from the camera
    colours: Mapping[str, Colour]
    events: tuple[Event, ...]
    ball: bool


@dataclass(frozen=True)
class Camera:
    """Amplitudes of slow movement: pan in metres, zoom as a share, shake in metres; periods in seconds."""

    height_m: float  # of the picture, at zoom 1
    pan_m: float
    pan_period_s: float
    zoom: float
    zoom_period_s: float
    shake_m: float
    roll: float


@dataclass(frozen=True)
class Light:
    gain: float
    swing: float
    period_s: float
    switch_s: float  # when the light changes at once; after the end: never
    switched_gain: float
    noise: float


@dataclass(frozen=True)
class Passer:
    """Something that passes between the figures and the camera."""

    start_s: float
    crossing_s: float
    width_m: float
    colour: Colour
    leftwards: bool


@dataclass(frozen=True)
class Storage:
    """How the video is encoded; with `variable_rate` some frames are left out and others come late."""

    codec: Codec
    container: Container
    width_px: int
    height_px: int
    fps: int
    quality: int
    variable_rate: bool


@dataclass(frozen=True)
class Script:
    name: str
    split: Split
    duration_s: float
    picture_seed: int
    actors: tuple[Actor, ...]
    camera: Camera
    light: Light
    passers: tuple[Passer, ...]
    props: Mapping[str, float]  # ladder, barbell: where they are, in metres
    pole_m: float | None
    movers: int  # things that move in the background
    storage: Storage

    @property
    def file_name(self) -> str:
        return f"{self.name}.{self.storage.container}"

    @property
    def instances(self) -> tuple[Event, ...]:
        events = (event for actor in self.actors for event in actor.events if event.label is not None)
        return tuple(sorted(events, key=lambda event: (event.start_s, event.end_s, event.motion)))


def write(split: Split, number: int, seed: int) -> Script:
    """Video `number` of a split; every triple gives its own script, always the same."""
    draw = Draw(seed, zlib.crc32(split.encode()), number)
    duration_s = draw.between(15, 60) if draw.chance(0.6) else draw.between(60, 110)
    if draw.chance(0.06):
        duration_s = draw.between(110, 180)
    storage, camera = _storage(draw), _camera(draw)
    reach_m = _reach_m(storage, camera)
    props = {name: draw.between(-reach_m, reach_m) for name in ("ladder", "barbell") if draw.chance(0.55)}
    casting = _Casting(draw, duration_s, reach_m, props)
    actors = tuple(casting.actor() for _ in range(draw.pick((1, 1, 1, 2, 2, 3))))
    return Script(
        name=f"marionette_{split}_{number:04d}",
        split=split,
        duration_s=duration_s,
        picture_seed=draw.integer(0, 1 << 30),
        actors=actors,
        camera=camera,
        light=a_light(draw, duration_s),
        passers=tuple(_passer(draw, duration_s) for _ in range(draw.pick((0, 0, 0, 1, 2)))),
        props=props,
        pole_m=draw.between(-reach_m - 0.4, reach_m + 0.4) if draw.chance(0.2) else None,
        movers=draw.pick((0, 1, 3, 6)),
        storage=storage,
    )


def write_lively(seed: int) -> Script:
    """The first video of a seed that shows something within a minute: for a look, not for measuring."""
    return next(
        script
        for script in (write("test", number, seed) for number in itertools.count())
        if script.duration_s <= LIVELY_S and LIVELY_INSTANCES[0] <= len(script.instances) <= LIVELY_INSTANCES[1]
    )


def _reach_m(storage: Storage, camera: Camera) -> float:
    """How far from the middle a figure may stand and still be seen whole wherever the camera looks."""
    half_m = 0.5 * camera.height_m * storage.width_px / storage.height_px / (1 + camera.zoom)
    return max(0.3, half_m - camera.pan_m - ARMS_M)


class Draw:
    """Random numbers that are the same everywhere: whole numbers, and thousandths of them."""

    def __init__(self, *seeds: int) -> None:
        self._numbers = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds)))

    def integer(self, low: int, high: int) -> int:
        """At least `low`, less than `high`."""
        return int(self._numbers.integers(low, high))

    def between(self, low: float, high: float) -> float:
        """A multiple of 0.001."""
        return self.integer(round(low * 1000), round(high * 1000) + 1) / 1000

    def chance(self, share: float) -> bool:
        return self.integer(0, 1000) < share * 1000

    def pick(self, things: tuple[Thing, ...]) -> Thing:
        return things[self.integer(0, len(things))]

    def colour(self, low: int = 20, high: int = 235) -> Colour:
        return self.integer(low, high), self.integer(low, high), self.integer(low, high)


class _Casting:
    """Fills the timelines of a video's figures so that no two do the same action at once."""

    def __init__(self, draw: Draw, duration_s: float, reach_m: float, props: Mapping[str, float]) -> None:
        self._draw, self._duration_s, self._reach_m, self._props = draw, duration_s, reach_m, props
        self._taken: dict[str, list[tuple[float, float]]] = {label: [] for label in LABELS}
        self._left = MOST_INSTANCES if draw.chance(0.94) else 0

    def actor(self) -> Actor:
        draw = self._draw
        ball = draw.chance(0.4)
        eager = draw.between(0.25, 0.75)
        height_m, girth, heading, depth, colours = an_appearance(draw)
        events = tuple(self._timeline(ball, eager, draw.between(0.82, 1.15)))
        return Actor(height_m, girth, heading, depth, colours, events, ball)

    def _timeline(self, ball: bool, eager: float, vigour: float) -> list[Event]:
        draw = self._draw
        at_s, place_m = draw.between(0.0, 2.0), self._place_m()
        events: list[Event] = []
        while True:
            name, motion = self._choose(ball, eager)
            goal_m = self._props.get(motion.prop or "", place_m)
            if abs(goal_m - place_m) > 0.05:  # what is done at the ladder wants a walk there first
                events.append(
                    self._event("walk", DAILY["walk"], at_s, abs(goal_m - place_m) / 0.8, vigour, place_m, goal_m)
                )
                at_s, place_m = events[-1].end_s, goal_m
            end_m = self._place_m() if motion.walks else place_m
            length_s = abs(end_m - place_m) / 0.8 if motion.walks else self._length_s(motion)
            event = self._event(name, motion, at_s, max(0.8, length_s), vigour, place_m, end_m)
            if event.end_s > self._duration_s - 0.3:
                return [one for one in events if one.end_s <= self._duration_s]
            if event.label is None or self._is_free(event):
                events.append(event)
                self._note(event)
                at_s, place_m = event.end_s + (0.0 if draw.chance(0.4) else draw.between(0.1, 2.5)), end_m

    def _place_m(self) -> float:
        return self._draw.between(-self._reach_m, self._reach_m)

    def _choose(self, ball: bool, eager: float) -> tuple[str, Motion]:
        draw = self._draw
        kinds: tuple[Mapping[str, Motion], ...] = (DAILY, NEAR_MISSES)
        if self._left and draw.chance(eager):
            kinds = (ACTIONS,)
        held = {"ball"} if ball else set()
        possible = [
            name
            for name, motion in draw.pick(kinds).items()
            if motion.prop is None or motion.prop in self._props or motion.prop in held
        ]
        name = draw.pick(tuple(possible))
        return name, MOTIONS[name]

    def _length_s(self, motion: Motion) -> float:
        """Short events are as likely as their share of the logarithm: halving twice is as likely as once."""
        low, high = motion.lengths_s
        return min(self._draw.between(low, high), self._draw.between(low, high))

    def _event(
        self, name: str, motion: Motion, start_s: float, length_s: float, vigour: float, from_m: float, to_m: float
    ) -> Event:
        draw = self._draw
        cycles = 1
        if motion.cycle_s is not None:
            cycle_s = draw.between(*motion.cycle_s)
            cycles = max(1, round(length_s / cycle_s))
            if not motion.walks:
                length_s = cycles * cycle_s
        label = name if name in ACTIONS else None
        end_s = round(start_s + length_s, 3)
        return Event(name, label, round(start_s, 3), end_s, cycles, draw.pick(("left", "right")), vigour, from_m, to_m)

    def _is_free(self, event: Event) -> bool:
        taken = self._taken[event.label or ""]
        return self._left > 0 and all(
            event.start_s > end_s + SAME_LABEL_APART_S or event.end_s < start_s - SAME_LABEL_APART_S
            for start_s, end_s in taken
        )

    def _note(self, event: Event) -> None:
        if event.label is not None:
            self._taken[event.label].append((event.start_s, event.end_s))
            self._left -= 1


def an_appearance(draw: Draw) -> tuple[float, float, float, float, dict[str, Colour]]:
    """Height, girth, heading, depth and colours of a figure."""
    height_m, girth = draw.between(1.45, 1.95), draw.between(0.8, 1.35)
    heading, depth = draw.between(-0.9, 0.9), draw.between(0.72, 1.12)
    colours = {
        "skin": draw.pick(((224, 180, 150), (198, 146, 110), (141, 90, 60), (92, 58, 40))),
        "shirt": draw.colour(),
        "trousers": draw.colour(10, 180),
        "shoes": draw.colour(10, 120),
    }
    return height_m, girth, heading, depth, colours


def _camera(draw: Draw) -> Camera:
    moves = draw.chance(0.6)
    return Camera(
        height_m=draw.between(2.35, 3.3),
        pan_m=draw.between(0.1, 0.5) if moves else 0.0,
        pan_period_s=draw.between(5, 25),
        zoom=draw.between(0.03, 0.2) if moves else 0.0,
        zoom_period_s=draw.between(6, 30),
        shake_m=draw.between(0.003, 0.03) if draw.chance(0.4) else 0.0,
        roll=draw.between(-0.05, 0.05),
    )


def a_light(draw: Draw, duration_s: float) -> Light:
    return Light(
        gain=draw.between(0.6, 1.15),
        swing=draw.between(0.0, 0.15),
        period_s=draw.between(3, 20),
        switch_s=draw.between(2, duration_s) if draw.chance(0.2) else duration_s + 1,
        switched_gain=draw.between(0.55, 1.2),
        noise=draw.between(0, 9),
    )


def _passer(draw: Draw, duration_s: float) -> Passer:
    return Passer(
        start_s=draw.between(0, max(1.0, duration_s - 3)),
        crossing_s=draw.between(1.5, 5),
        width_m=draw.between(0.3, 0.7),
        colour=draw.colour(),
        leftwards=draw.chance(0.5),
    )


def _storage(draw: Draw) -> Storage:
    codec, container = draw.pick(KINDS)
    width_px, height_px = draw.pick(((320, 240), (320, 180), (352, 288), (400, 224), (426, 240), (480, 270)))
    best, worst = QUALITIES[codec]
    return Storage(
        codec=codec,
        container=container,
        width_px=width_px,
        height_px=height_px,
        fps=draw.pick((12, 15, 15, 20, 24, 25, 30)),
        quality=draw.integer(best, worst),
        variable_rate=container in {"mp4", "mkv"} and draw.chance(0.2),
    )
