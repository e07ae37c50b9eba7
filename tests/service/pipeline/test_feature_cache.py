"""Features that are kept give the same answer without a decoder; a damaged blob only costs the time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from service.errors import StorageFull
from service.localization import DetectOptions, Progress
from service.pipeline import feature_cache
from service.pipeline.feature_cache import FeatureCache
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions
from tests.support import bundles as tiny
from tests.support import videos

CPU = OnnxOptions(device="cpu", threads=1)


class Shelf(dict):
    def load(self, key: str) -> bytes | None:
        return self.get(key)

    def save(self, key: str, data: bytes) -> None:
        self[key] = data


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return videos.write(tmp_path / "v.mp4", videos.flashes((1.0, 2.0)), duration_s=4)


def load(folder: Path, **changes) -> LoadedModel:
    tiny.candidates(folder, **changes)
    return loaded_model.load(folder, CPU)


@pytest.mark.parametrize("part", [(None, None), (0.52, 3.1)])
def test_the_second_answer_is_the_first_without_decoding(tmp_path: Path, video: Path, part: tuple) -> None:
    model, shelf = load(tmp_path / "b"), Shelf()
    options = DetectOptions(start_s=part[0], end_s=part[1], include=("activations",))
    plain = localize(video, model, options)
    first = localize(video, model, options, features=FeatureCache(shelf, "v"))
    video.unlink()  # nothing could be decoded any more
    second = localize(video, model, options, features=FeatureCache(shelf, "v"))
    for other in (first, second):
        assert replace(other, timings_s={}, details={}) == replace(plain, timings_s={}, details={})
    assert (first.details["features"], second.details["features"]) == ("kept", "cached")
    assert "decode" in first.timings_s
    assert not {"decode", "probe", "features"} & set(second.timings_s)


def test_scores_of_a_backbone_are_kept_too(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b")
    model, shelf = loaded_model.load(tmp_path / "b", CPU), Shelf()
    cache = FeatureCache(shelf, "v")
    assert localize(video, model, features=cache).segments == localize(video, model, features=cache).segments
    assert len(shelf) == 1


def test_another_detector_on_the_same_backbone_and_grid_shares_features(tmp_path: Path, video: Path) -> None:
    shelf = Shelf()
    sliding = {"mode": "sliding", "length": 16, "hop": 8}
    localize(video, load(tmp_path / "a"), features=FeatureCache(shelf, "v"))
    other = localize(video, load(tmp_path / "b", windowing=sliding, name="other"), features=FeatureCache(shelf, "v"))
    assert other.details["features"] == "cached"


def test_another_video_grid_part_or_view_shares_nothing(tmp_path: Path) -> None:
    model = load(tmp_path / "a")
    grid = load(tmp_path / "b", grid={"fps": 10.0, "stride_frames": 2, "offset_frames": 2, "tail": "drop"})
    squeezed = tiny.stream(
        outputs={"features": "features"}, clip_frames=4, resize={"mode": "short_side", "size_px": 16}, crop_px=[16, 16]
    )
    view = load(tmp_path / "c", streams=[squeezed])
    keys = [
        feature_cache.make_key("v", model, DetectOptions(), "auto"),
        feature_cache.make_key("w", model, DetectOptions(), "auto"),
        feature_cache.make_key("v", model, DetectOptions(start_s=1.0), "auto"),
        feature_cache.make_key("v", model, DetectOptions(end_s=1.0), "auto"),
        feature_cache.make_key("v", grid, DetectOptions(), "auto"),
        feature_cache.make_key("v", view, DetectOptions(), "auto"),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == feature_cache.make_key("v", model, DetectOptions(0.5, 3, start_s=0.0), "auto")


@pytest.mark.parametrize("where", [0, 5, 20, 60, 400, -1])
def test_a_damaged_blob_is_made_anew(tmp_path: Path, video: Path, where: int) -> None:
    model, shelf = load(tmp_path / "b"), Shelf()
    cache = FeatureCache(shelf, "v")
    sound = localize(video, model, features=cache)
    ((key, data),) = shelf.items()
    broken = bytearray(data)
    broken[where] ^= 0xFF
    shelf[key] = bytes(broken)
    again = localize(video, model, features=cache)
    assert (again.segments, again.details["features"]) == (sound.segments, "kept")
    assert shelf[key] == data


@pytest.mark.parametrize("length", [0, 3, 30, 500])
def test_a_blob_that_was_cut_is_none(tmp_path: Path, video: Path, length: int) -> None:
    model, shelf = load(tmp_path / "b"), Shelf()
    localize(video, model, features=FeatureCache(shelf, "v"))
    assert feature_cache.unpack(next(iter(shelf.values()))[:length]) is None


def test_an_answer_is_given_where_features_find_no_room(tmp_path: Path, video: Path) -> None:
    class Full(Shelf):
        def save(self, key: str, data: bytes) -> None:
            raise StorageFull("3 bytes are free; 4 are needed")

    result = localize(video, load(tmp_path / "b"), features=FeatureCache(Full(), "v"))
    assert result.segments
    assert result.details["features"] == "not kept: 3 bytes are free; 4 are needed"


@pytest.mark.parametrize("stage", ["probe", "decode", "localize", "segments"])
def test_a_listener_ends_the_work_and_no_decoder_stays(tmp_path: Path, video: Path, stage: str) -> None:
    class EnoughError(Exception):
        pass

    def stop(step: Progress) -> None:
        if step.stage == stage:
            raise EnoughError

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    shelf = Shelf()
    with pytest.raises(EnoughError):
        localize(video, load(tmp_path / "b"), on_progress=stop, features=FeatureCache(shelf, "v"))
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
    assert bool(shelf) == (stage in {"localize", "segments"})
