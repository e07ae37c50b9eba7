"""A file of features and a loaded model in, the segments of its video out: `tal detect --features`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from service.errors import InvalidOptions
from service.localization import DetectOptions, Localization
from service.pipeline.features import FeatureSequence
from service.pipeline.pipeline import Preset, localize_features
from service.runtime.loaded_model import LoadedModel
from service.runtime.session import to_numpy

if TYPE_CHECKING:
    from training.feature_settings import FeatureRule


@dataclass(frozen=True)
class FeatureOptions:
    """How features of others were made; what is None is as the bundle makes its own.

    `arrays`: names in an .npz or .h5, several by commas, whose channels stand side by side.
    """

    stride_frames: float | None = None
    offset_frames: float | None = None
    clip_frames: int | None = None
    fps: float | None = None
    layout: Literal["tc", "ct"] | None = None
    arrays: str | None = None

    @property
    def given(self) -> list[str]:
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        return [f"--{name.removesuffix('s') if name == 'arrays' else name.replace('_', '-')}" for name in names]


def localize_file(
    path: Path, model: LoadedModel, options: DetectOptions, preset: Preset, how: FeatureOptions
) -> Localization:
    """Features of `tal extract` must have been made as the bundle makes them; of others, differences are told."""
    from training import feature_files  # noqa: PLC0415  (only who detects in features needs it)

    if not path.is_file():
        raise InvalidOptions(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; a file of features is needed")
    if feature_files.is_ours(path.parent) and path.suffix == ".npz":
        if how.given:
            raise InvalidOptions(
                f"{path}: {feature_files.SETTINGS_FILE} beside it says how it was made; leave out "
                f"{', '.join(how.given)}"
            )
        settings = feature_files.read_settings(path.parent)
        feature_files.refuse_mismatch(settings, model.manifest)
        return localize_features(
            path.name, _fitting(path, feature_files.load(path, settings), model), model, options, preset=preset
        )
    rule = _rule(how, model)
    expected = feature_files.FeatureSettings.from_manifest(model.bundle)
    # A bundle that takes every frame has no rate of its own that another could differ from.
    compared = replace(rule, fps=None) if expected.grid.fps == "native" else rule
    told = tuple(f"features: {difference}" for difference in feature_files.differences(compared, expected))
    sequence = _fitting(path, _load(path, rule, how), model)
    return localize_features(path.name, sequence, model, options, preset=preset, warnings=told)


def _rule(how: FeatureOptions, model: LoadedModel) -> FeatureRule:
    from training.feature_settings import FeatureRule  # noqa: PLC0415

    grid = model.manifest.grid
    clip_frames = model.manifest.reach_frames if how.clip_frames is None else how.clip_frames
    own_middle = grid.offset_frames if how.clip_frames is None else clip_frames / 2
    return FeatureRule(
        grid.stride_frames if how.stride_frames is None else how.stride_frames,
        own_middle if how.offset_frames is None else how.offset_frames,
        clip_frames,
        how.fps if how.fps is not None or grid.fps == "native" else grid.fps,
        layout=how.layout or "tc",
    )


def _load(path: Path, rule: FeatureRule, how: FeatureOptions) -> FeatureSequence:
    from training import feature_files  # noqa: PLC0415

    names = [None] if how.arrays is None else [name.strip() for name in how.arrays.split(",")]
    if "" in names:
        raise InvalidOptions(f"--array is {how.arrays!r}; a name is needed, or several with commas between them")
    parts = [feature_files.load(path, replace(rule, array=name)) for name in names]
    rows = {part.num_snippets for part in parts}
    if len(rows) > 1:
        raise InvalidOptions(
            f"{path}: arrays {how.arrays} have {', '.join(map(str, sorted(rows)))} rows; as many are needed"
        )
    values = np.concatenate([to_numpy(part.values) for part in parts if part.values is not None], axis=1)
    return replace(parts[0], values=values)


def _fitting(path: Path, sequence: FeatureSequence, model: LoadedModel) -> FeatureSequence:
    """What a detector of other features would fail on, in words."""
    spec = model.manifest.detector
    if spec is None or model.detector is None:
        raise InvalidOptions(f"model {model.manifest.name!r} has no detector, so it sees videos only")
    wanted = next(one.shape[1] for one in model.detector.session.inputs if one.name == spec.features)
    found = None if sequence.values is None else sequence.values.shape[1]
    if wanted is not None and found != wanted:
        raise InvalidOptions(f"{path}: {found} channels of features; the detector takes {wanted}")
    return sequence
