"""A bundle, or a `features.json`, in; how features were made, as one frozen type, and how two such ways differ, out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from models.bundle import Bundle, explain
from models.manifest import Flow, Grid, InputFormat, Manifest, Resize, State, Stream
from service.errors import InvalidOptions

SCHEMA_VERSION = 1

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class StreamSettings:
    """Everything that decides what one backbone sees, and which backbone it is."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    kind: Literal["rgb", "flow"]
    graph_sha256: str
    clip_frames: int
    frame_step: int
    first_frame: int | None
    resize: Resize
    crop_px: tuple[int, int] | None
    input: InputFormat
    flow: Flow | None
    state: State | None

    @classmethod
    def of(cls, stream: Stream, manifest: Manifest) -> StreamSettings:
        return cls(
            name=stream.name,
            kind=stream.kind,
            graph_sha256=manifest.files[stream.graph].sha256,
            clip_frames=stream.clip_frames,
            frame_step=stream.frame_step,
            first_frame=stream.first_frame,
            resize=stream.resize,
            crop_px=stream.crop_px,
            input=stream.input,
            flow=stream.flow,
            state=stream.state,
        )


@dataclass(frozen=True)
class ScoreSettings:
    """How the class scores beside the features came to be."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    labels: tuple[str, ...]
    activations: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class FeatureSettings:
    """How the features of a folder were made; `channels` is None where no graph said it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    bundle_name: str
    bundle_version: str
    bundle_sha256: str
    streams: tuple[StreamSettings, ...]
    grid: Grid
    clip_span_frames: int
    channels: int | None = None
    dtype: Dtype = "float32"
    scores: ScoreSettings | None = None

    @classmethod
    def from_manifest(
        cls, bundle: Bundle, *, channels: int | None = None, dtype: Dtype = "float32", with_scores: bool = False
    ) -> FeatureSettings:
        """A manifest does not know how wide its features are: whoever loaded its graphs does."""
        settings = _of_manifest(bundle.manifest, bundle.sha256)
        scores = _scores_of(bundle.manifest) if with_scores else None
        return replace(settings, channels=channels, dtype=dtype, scores=scores)

    @property
    def digest(self) -> bytes:
        """Of what decides the numbers; the bundle around the backbones does not."""
        told = json.dumps(
            _as_json(self) | dict.fromkeys(("bundle_name", "bundle_version", "bundle_sha256", "channels"))
        )
        return hashlib.sha256(told.encode()).digest()

    def to_json(self) -> str:
        return json.dumps({"schema_version": SCHEMA_VERSION, **_as_json(self)}, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class FeatureRule:
    """What features of others do not say: which frames a row saw, how arrays are laid out and named.

    `fps` is the rate at which frames were taken, None for the video's own. `array` names the array of an .npz, or the
    data set of an .h5; `{video}` in it stands for the video.
    """

    stride_frames: float
    offset_frames: float
    clip_frames: int
    fps: float | None = None
    channels: int | None = None
    layout: Literal["tc", "ct"] = "tc"
    array: str | None = None

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)}; {accepted}"
            for name, accepted, sound in (
                ("stride_frames", "a number above 0 is needed", positive(self.stride_frames)),
                ("offset_frames", "a finite number is needed", isfinite(self.offset_frames)),
                ("clip_frames", "1 or more is needed", self.clip_frames >= 1),
                ("fps", "a number above 0 is needed, or none", self.fps is None or positive(self.fps)),
                ("channels", "1 or more is needed, or none", self.channels is None or self.channels >= 1),
                ("layout", "accepted are 'tc' and 'ct'", self.layout in ("tc", "ct")),
            )
            if not sound
        ]
        if wrong:
            raise InvalidOptions("feature rule: " + "; ".join(wrong))


def parse(text: str, origin: str) -> FeatureSettings:
    """The content of a features.json; `origin` is what a refusal calls it."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidOptions(f"{origin}: cannot be read: {error}") from None
    version = document.pop("schema_version", None) if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise InvalidOptions(f"{origin}: schema_version {version!r} is not known; this release reads {SCHEMA_VERSION}")
    try:
        return TypeAdapter(FeatureSettings).validate_json(json.dumps(document))
    except ValidationError as error:
        raise InvalidOptions(f"{origin}: {explain(error, 'settings')}") from None


def refuse_mismatch(given: FeatureSettings | FeatureRule, expected: Manifest | FeatureSettings) -> None:
    """Names every way in which features were not made as a model expects them."""
    wanted = _of_manifest(expected, "") if isinstance(expected, Manifest) else expected
    told = differences(given, wanted)
    if told:
        raise InvalidOptions("the features do not fit the model: " + "; ".join(told))


def differences(given: FeatureSettings | FeatureRule, expected: FeatureSettings) -> list[str]:
    """In words, one entry each; what one side does not know is no difference."""
    have, want = _grid_facts(given), _grid_facts(expected)
    told = [
        f"{name} {have[name]} given, {want[name]} expected"
        for name in want
        if None not in (have[name], want[name]) and have[name] != want[name]
    ]
    if isinstance(given, FeatureSettings):
        told += _tail_difference(given, expected) + _stream_differences(given, expected)
    return told


def positive(number: float) -> bool:
    return isfinite(number) and number > 0


def _of_manifest(manifest: Manifest, sha256: str) -> FeatureSettings:
    return FeatureSettings(
        bundle_name=manifest.name,
        bundle_version=manifest.version,
        bundle_sha256=sha256,
        streams=tuple(StreamSettings.of(stream, manifest) for stream in manifest.streams),
        grid=manifest.grid,
        clip_span_frames=manifest.reach_frames,
    )


def _scores_of(manifest: Manifest) -> ScoreSettings:
    return ScoreSettings(
        labels=manifest.labels,
        activations=tuple(stream.outputs.score_activation for stream in manifest.streams),
        weights=tuple(stream.fusion_weight for stream in manifest.streams),
    )


def _as_json(settings: FeatureSettings) -> dict[str, Any]:
    document: dict[str, Any] = TypeAdapter(FeatureSettings).dump_python(settings, mode="json")
    return document


def _grid_facts(of: FeatureSettings | FeatureRule) -> dict[str, float | str | None]:
    if isinstance(of, FeatureRule):
        # Without a rate of its own a rule takes every frame, as "native" does.
        facts = asdict(of) | {"fps": "native" if of.fps is None else of.fps}
    else:
        facts = of.grid.model_dump() | {"clip_frames": of.clip_span_frames, "channels": of.channels}
    names = {"stride_frames": "stride", "offset_frames": "offset", "clip_frames": "clip frames"}
    return {
        names.get(key, key): facts[key] for key in ("stride_frames", "offset_frames", "clip_frames", "fps", "channels")
    }


def _tail_difference(given: FeatureSettings, expected: FeatureSettings) -> list[str]:
    if given.grid.tail == expected.grid.tail:
        return []
    return [f"tail {given.grid.tail!r} given, {expected.grid.tail!r} expected"]


def _stream_differences(given: FeatureSettings, expected: FeatureSettings) -> list[str]:
    """Columns follow the order of the streams, so the order counts."""
    names, wanted = [stream.name for stream in given.streams], [stream.name for stream in expected.streams]
    if names != wanted:
        return [f"streams {' + '.join(names)} given, {' + '.join(wanted)} expected, in this order"]
    return [
        told
        for have, want in zip(given.streams, expected.streams, strict=True)
        for told in _differences_of_stream(have, want)
    ]


def _differences_of_stream(have: StreamSettings, want: StreamSettings) -> list[str]:
    told = []
    for name in have.__dataclass_fields__:
        a, b = getattr(have, name), getattr(want, name)
        if a != b and name == "graph_sha256":
            told.append(f"stream {have.name!r}: another backbone (graph {a[:12]}… given, {b[:12]}… expected)")
        elif a != b:
            told.append(f"stream {have.name!r}: {name} {_plain(a)} given, {_plain(b)} expected")
    return told


def _plain(value: Any) -> str:
    """A setting in words; of a part only what is set."""
    if hasattr(value, "model_dump"):
        return ", ".join(f"{key} {found}" for key, found in value.model_dump().items() if found is not None)
    return "none" if value is None else str(value)
