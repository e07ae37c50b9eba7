"""manifest.json in, one frozen `Manifest` out: the versioned schema of a bundle, and nothing that touches a disk.

`docs/bundle.md` explains every key; `docs/bundle.schema.json` is generated from the classes below.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.postprocessing import Postprocessing, Presets
from models.schema import Count, Fraction, Label, Part, Positive, Size

SCHEMA_VERSION = 1
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$"


class Resize(Part):
    """How a displayed frame becomes a model's frame; `size_px` is the short side, or (width, height) for exact."""

    mode: Literal["none", "short_side", "exact"] = "none"
    size_px: Count | Size | None = None
    interpolation: Literal["linear", "area", "cubic"] = "linear"

    @model_validator(mode="after")
    def _size_fits_mode(self) -> Resize:
        wanted = {"none": type(None), "short_side": int, "exact": tuple}[self.mode]
        if not isinstance(self.size_px, wanted):
            accepted = {"none": "no size_px", "short_side": "one number", "exact": "[width, height]"}[self.mode]
            raise ValueError(f"size_px {self.size_px} does not fit mode {self.mode!r}, which takes {accepted}")
        return self


class InputFormat(Part):
    """What a graph wants of a clip: value = (pixel * scale - mean) / std, channel by channel."""

    name: str | None = None
    dtype: Literal["uint8", "float32"] = "uint8"
    layout: Literal["NTHWC", "NCTHW", "NTCHW", "NHWC", "NCHW"] = "NTHWC"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: Positive = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Positive, ...] = (1.0,)

    @model_validator(mode="after")
    def _uint8_is_raw(self) -> InputFormat:
        if self.dtype == "uint8" and (self.scale, self.mean, self.std) != (1.0, (0.0,), (1.0,)):
            raise ValueError("a uint8 input takes no scale, mean or std: they stand inside its graph")
        return self


class Flow(Part):
    """Optical flow between neighbouring frames, in pixels at the size that `resize` of its stream gives."""

    algorithm: Literal["dis_ultrafast", "dis_fast", "dis_medium"] = "dis_medium"
    clip_px: Positive | None = None
    quantised: bool = False

    @model_validator(mode="after")
    def _quantised_needs_range(self) -> Flow:
        if self.quantised and self.clip_px is None:
            raise ValueError("quantised flow needs clip_px, the displacement that the bytes 0 and 255 stand for")
        return self


class StateTensor(Part):
    """One memory of a streaming graph: `output` of a step is fed to `input` of the next; zeros at the start."""

    input: str
    output: str
    shape: tuple[Count, ...]
    dtype: Literal["float32", "int32", "int64"] = "float32"


class State(Part):
    """A streaming graph takes `step_frames` at a time and is reset before every snippet or once per video."""

    reset: Literal["window", "video"] = "window"
    step_frames: Count = 1
    tensors: Annotated[tuple[StateTensor, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_tensor_once(self) -> State:
        names = [tensor.input for tensor in self.tensors]
        if len(names) != len(set(names)):
            raise ValueError("two state tensors feed the same input")
        return self


class StreamOutputs(Part):
    """Names of a backbone graph's outputs; `score_activation` turns its raw class scores into probabilities."""

    features: str | None = None
    scores: str | None = None
    score_activation: Literal["none", "softmax", "sigmoid"] = "none"

    @model_validator(mode="after")
    def _gives_something(self) -> StreamOutputs:
        if self.features is None and self.scores is None:
            raise ValueError("a stream must name its features output, its scores output, or both")
        return self


class Stream(Part):
    """One backbone: how its clips are cut and prepared, and what its graph gives for each."""

    name: str
    kind: Literal["rgb", "flow"] = "rgb"
    graph: str
    clip_frames: Count
    frame_step: Count = 1
    resize: Resize = Resize()
    crop_px: Size | None = None
    input: InputFormat = InputFormat()
    outputs: StreamOutputs
    first_frame: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    flow: Flow | None = None
    state: State | None = None
    fusion_weight: Positive = 1.0

    @property
    def span_frames(self) -> int:
        """Frames from the first to the last of one clip, both counted."""
        return (self.clip_frames - 1) * self.frame_step + 1

    @model_validator(mode="after")
    def _parts_agree(self) -> Stream:
        if (self.kind == "flow") != (self.flow is not None):
            raise ValueError(f"stream {self.name!r} is of kind {self.kind!r}: kind flow and the key flow go together")
        if self.state and self.clip_frames % self.state.step_frames:
            raise ValueError(f"clip_frames {self.clip_frames} is no multiple of step_frames {self.state.step_frames}")
        channels = 2 if self.kind == "flow" else 3
        for name in ("mean", "std"):
            if len(getattr(self.input, name)) not in (1, channels):
                raise ValueError(
                    f"input.{name} has {len(getattr(self.input, name))} numbers; 1 or {channels} are needed"
                )
        if self.input.layout in ("NHWC", "NCHW") and (self.state.step_frames if self.state else self.clip_frames) > 1:
            raise ValueError(f"layout {self.input.layout} has no time axis, but a clip has {self.clip_frames} frames")
        return self

    @model_validator(mode="after")
    def _crop_fits(self) -> Stream:
        size, crop = self.resize.size_px, self.crop_px
        if crop is None or size is None:
            return self
        too_large = min(crop) > size if isinstance(size, int) else crop[0] > size[0] or crop[1] > size[1]
        if too_large:
            raise ValueError(f"crop_px {list(crop)} is larger than frames are after resizing to {size}")
        return self


class Grid(Part):
    """Grid position g is frame g * stride_frames + offset_frames at the sampling rate `fps`."""

    fps: Annotated[float, Field(gt=0, le=1000)] | Literal["native"] = "native"
    stride_frames: Count
    offset_frames: Annotated[float, Field(ge=-1_000_000, le=1_000_000)]
    tail: Literal["drop", "pad"] = "drop"


class Sliding(Part):
    mode: Literal["sliding"]
    length: Count
    hop: Count
    tail: Literal["shift", "pad", "drop"] = "shift"

    @model_validator(mode="after")
    def _no_gaps(self) -> Sliding:
        if self.hop > self.length:
            raise ValueError(f"hop {self.hop} is greater than length {self.length}: snippets between windows are lost")
        return self


class Resized(Part):
    """The whole video interpolated to `length` steps.

    `span` says which frames those steps share equally: those that the clips cover, whole strides of the video, or
    all of it; step i stands at (i + offset_steps) / length of that span.
    """

    mode: Literal["resize"]
    length: Count
    span: Literal["clips", "strides", "video"] = "clips"
    offset_steps: Fraction = 0.5


class Whole(Part):
    """One window as long as the video, padded; longer than `max_length`: overlapping windows of that length.

    At least `margin` empty steps follow the video in its one window. As networks were published, a video is padded to
    `train_length` at most, and a longer one to a multiple of `beyond_multiple_of`, margin or not.
    """

    mode: Literal["whole"]
    multiple_of: Count = 1
    margin: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    train_length: Count | None = None
    beyond_multiple_of: Count | None = None
    max_length: Count | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25

    @model_validator(mode="after")
    def _multiples(self) -> Whole:
        if self.max_length is not None and self.max_length % self.multiple_of:
            raise ValueError(f"max_length {self.max_length} is no multiple of multiple_of {self.multiple_of}")
        if (self.train_length is None) != (self.beyond_multiple_of is None):
            raise ValueError("train_length and beyond_multiple_of go together")
        for name in ("train_length", "beyond_multiple_of"):
            value = getattr(self, name)
            if value is not None and value % self.multiple_of:
                raise ValueError(f"{name} {value} is no multiple of multiple_of {self.multiple_of}")
        if self.max_length is not None and self.max_length % (self.beyond_multiple_of or 1):
            raise ValueError(
                f"max_length {self.max_length} is no multiple of beyond_multiple_of {self.beyond_multiple_of}"
            )
        return self


Windowing = Annotated[Sliding | Resized | Whole, Field(discriminator="mode")]


class Detector(Part):
    """The graph from features (B, C, T) and mask (B, T) to candidates or activations; values are tensor names."""

    graph: str
    features: str = "features"
    mask: str | None = "mask"
    spans: str = "spans"
    scores: str = "scores"
    groups: str | None = None
    activations: str = "activations"
    video_scores: str | None = None


class Classifier(Part):
    """Whole-video features (1, C, T) and mask to video_scores (1, K); run once per video."""

    graph: str
    features: str = "features"
    mask: str | None = "mask"
    video_scores: str = "video_scores"
    activation: Literal["none", "softmax", "sigmoid"] = "none"


class LabelGroup(Part):
    """A label that stands for several classes: their activations are added, and it replaces them."""

    label: Label
    members: Annotated[tuple[Label, ...], Field(min_length=1)]


class FileRecord(Part):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Manifest(Part):
    """Everything that serving needs to know of a model."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    licence: str
    provenance: str
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    label_groups: tuple[LabelGroup, ...] = ()
    streams: Annotated[tuple[Stream, ...], Field(min_length=1, max_length=16)]
    grid: Grid
    windowing: Windowing | None = None
    output_kind: Literal["candidates", "activations"]
    detector: Detector | None = None
    classifier: Classifier | None = None
    postprocessing: Presets
    metrics: dict[str, float] = Field(default_factory=dict)
    parity: dict[str, float] = Field(default_factory=dict)
    files: dict[str, FileRecord]

    @property
    def graphs(self) -> tuple[str, ...]:
        """Every graph that the bundle runs, once each, in the order of the walk."""
        later = [part.graph for part in (self.detector, self.classifier) if part]
        return tuple(dict.fromkeys([*(s.graph for s in self.streams), *later]))

    @property
    def segment_labels(self) -> tuple[str, ...]:
        """The labels that segments can carry: classes outside every group, then the groups."""
        grouped = {member for group in self.label_groups for member in group.members}
        return (*(label for label in self.labels if label not in grouped), *(g.label for g in self.label_groups))

    @property
    def reach_frames(self) -> int:
        """Frames of a snippet: those of the longest clip of any stream."""
        return max(stream.span_frames for stream in self.streams)

    @property
    def presets(self) -> tuple[Postprocessing, ...]:
        both = (self.postprocessing.use, self.postprocessing.evaluation)
        return tuple(preset for preset in both if preset is not None)

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Manifest:
        for names, what in ((self.labels, "labels"), (self.segment_labels, "labels and label_groups")):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} name {', '.join(map(repr, twice))} more than once")
        members = [member for group in self.label_groups for member in group.members]
        unknown = sorted(set(members) - set(self.labels))
        if unknown:
            raise ValueError(f"label_groups name {', '.join(map(repr, unknown))}, which labels does not hold")
        if len(members) != len(set(members)):
            raise ValueError("a class may be a member of one label group only")
        return self

    @model_validator(mode="after")
    def _stations_agree(self) -> Manifest:
        names = [stream.name for stream in self.streams]
        if len(names) != len(set(names)):
            raise ValueError(f"stream names {names} are not distinct")
        if self.detector is None and not all(stream.outputs.scores for stream in self.streams):
            raise ValueError("without a detector every stream must give scores: they are the activations")
        if self.detector is None and (self.output_kind != "activations" or self.windowing is not None):
            raise ValueError("without a detector the output kind is activations and there is no windowing")
        if self.detector is not None and self.windowing is None:
            raise ValueError("a detector needs windowing: one of sliding, resize, whole")
        if (self.detector or self.classifier) and not all(stream.outputs.features for stream in self.streams):
            raise ValueError("with a detector or a classifier every stream must give features")
        if self.label_groups and self.output_kind != "activations":
            raise ValueError("label_groups add activations; a bundle whose output kind is candidates has none")
        return self

    @model_validator(mode="after")
    def _streaming_state_fits_grid(self) -> Manifest:
        for stream in self.streams:
            advance = stream.clip_frames * stream.frame_step
            if stream.state and stream.state.reset == "video" and advance != self.grid.stride_frames:
                raise ValueError(
                    f"stream {stream.name!r} carries its state through the video, so its clips must follow each other: "
                    f"clip_frames x frame_step is {advance}, stride_frames is {self.grid.stride_frames}"
                )
        return self

    @model_validator(mode="after")
    def _clips_stay_within_the_longest(self) -> Manifest:
        for stream in self.streams:
            if stream.first_frame is not None and stream.first_frame + stream.span_frames > self.reach_frames:
                raise ValueError(
                    f"stream {stream.name!r} begins at frame {stream.first_frame} of a snippet and spans "
                    f"{stream.span_frames}; the longest clip of the bundle has {self.reach_frames}"
                )
        return self

    @model_validator(mode="after")
    def _clips_cover_the_video(self) -> Manifest:
        for preset in self.presets:
            if preset.grouping and preset.grouping.support != "point" and self.grid.stride_frames > self.reach_frames:
                raise ValueError(
                    f"support {preset.grouping.support!r} needs clips without gaps between them: stride_frames is "
                    f"{self.grid.stride_frames}, a clip spans {self.reach_frames} frames"
                )
        return self

    @model_validator(mode="after")
    def _overlaps_are_suppressed(self) -> Manifest:
        rule = self.windowing
        overlap = (isinstance(rule, Sliding) and rule.hop < rule.length) or (
            isinstance(rule, Whole) and rule.max_length is not None and rule.overlap > 0
        )
        if self.output_kind == "candidates" and overlap and not all(preset.nms for preset in self.presets):
            raise ValueError("windows overlap, so the same candidate comes twice: every preset needs nms")
        return self

    @model_validator(mode="after")
    def _postprocessing_fits_kind(self) -> Manifest:
        for preset in self.presets:
            if (self.output_kind == "activations") != (preset.grouping is not None):
                raise ValueError("postprocessing.grouping goes with the output kind activations, and only with it")
        return self

    @model_validator(mode="after")
    def _graphs_are_pinned(self) -> Manifest:
        if "manifest.json" in self.files:
            raise ValueError("files lists manifest.json, which cannot hold its own digest")
        for graph in self.graphs:
            if graph not in self.files:
                raise ValueError(f"graph {graph!r} has no entry in files; its entries are {sorted(self.files)}")
        return self
