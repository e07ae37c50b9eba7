"""A batch that no memory is left for is halved, and nothing is lost or done twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import InferenceFailed
from service.pipeline.batch_limit import BatchLimit
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions
from tests.support import bundles as tiny
from tests.support import videos

CPU = OnnxOptions(device="cpu", threads=1)
SLIDING = {"mode": "sliding", "length": 16, "hop": 8}


class Cramped:
    """A session that has memory for batches of so many."""

    def __init__(self, real, most: int, complaint: str = "Failed to allocate memory for requested buffer") -> None:
        self._real, self._most, self._complaint = real, most, complaint
        self.sizes: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._real, name)

    def run(self, feeds, **wanted):
        size = next(iter(feeds.values())).shape[0]
        self.sizes.append(size)
        if size > self._most:
            raise InferenceFailed("graph: failed on clips") from RuntimeError(self._complaint)
        return self._real.run(feeds, **wanted)


def cramped(model: LoadedModel, features: int, windows: int, **told: str) -> LoadedModel:
    stream = replace(model.streams[0], session=Cramped(model.streams[0].session, features, **told))
    detector = replace(model.detector, session=Cramped(model.detector.session, windows, **told))
    return replace(model, streams=(stream,), detector=detector)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return videos.write(tmp_path / "v.mp4", videos.flashes((1.0, 2.0), (3.0, 3.5)), duration_s=5)


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    tiny.candidates(tmp_path / "b", windowing=SLIDING)
    return loaded_model.load(tmp_path / "b", CPU)


def test_batches_are_halved_until_they_fit_and_the_answer_is_the_same(model: LoadedModel, video: Path) -> None:
    small = cramped(model, features=3, windows=1)
    result = localize(video, small)
    assert result.segments == localize(video, model).segments
    assert result.details["batch"] == {"stream rgb": 2, "detector": 1}
    assert "memory ran out: detector went on with batches of 1" in result.warnings
    # What did not fit once is not tried again.
    assert small.streams[0].session.sizes[:3] == [8, 4, 2]
    assert set(small.streams[0].session.sizes[2:]) <= {1, 2}


@pytest.mark.parametrize("told", ["CUDA out of memory. Tried to allocate 2 GiB", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_even_one_that_does_not_fit_is_an_error_that_says_so(model: LoadedModel, video: Path, told: str) -> None:
    with pytest.raises(InferenceFailed, match="memory ran out on a batch of 1"):
        localize(video, cramped(model, features=0, windows=1, complaint=told))


def test_other_failures_are_not_tried_again(model: LoadedModel, video: Path) -> None:
    broken = cramped(model, features=0, windows=0, complaint="a node has no such kernel")
    with pytest.raises(InferenceFailed, match="failed on clips"):
        localize(video, broken)
    assert broken.streams[0].session.sizes == [8]


def test_a_fixed_batch_is_never_split() -> None:
    def run(part: slice) -> None:
        raise InferenceFailed("out of memory")

    with pytest.raises(InferenceFailed, match="batch of 4, the smallest"):
        list(BatchLimit(4, smallest=4).each(8, run))
