"""Joining and windowing features gives the same numbers on the host and through device tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime import device_graphs
from service.runtime.feature_ops import PARTS_PER_JOIN, DeviceOps, FeatureOps, Gather, HostOps
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Tensor, to_numpy
from tests.support import graphs

CPU = OnnxOptions(device="cpu", threads=1)
BOUND = DeviceOps(CPU)
RANDOM = np.random.default_rng(0)


@pytest.fixture(params=[pytest.param(HostOps(), id="host"), pytest.param(BOUND, id="device-on-cpu")])
def ops(request: pytest.FixtureRequest) -> FeatureOps:
    return request.param


@pytest.mark.parametrize("graph", [device_graphs.concat_rows(3), device_graphs.concat_columns(2)])
def test_hand_made_graphs_are_sound_onnx(graph: bytes) -> None:
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    onnx.checker.check_model(onnx.load_from_string(device_graphs.gather_windows()), full_check=True)
    onnx.checker.check_model(onnx.load_from_string(device_graphs.identity()), full_check=True)


@pytest.mark.parametrize("count", [1, 2, 3, PARTS_PER_JOIN - 1, PARTS_PER_JOIN, 3 * PARTS_PER_JOIN + 7])
def test_rows_join_in_order(ops: FeatureOps, count: int) -> None:
    parts = [RANDOM.normal(size=(1 + index % 3, 4)).astype(np.float32) for index in range(count)]
    assert np.array_equal(to_numpy(ops.join_rows(parts)), np.concatenate(parts))


def test_columns_join_in_order(ops: FeatureOps) -> None:
    parts = [RANDOM.normal(size=(5, width)).astype(np.float32) for width in (2, 3, 1)]
    assert np.array_equal(to_numpy(ops.join_columns(parts)), np.concatenate(parts, axis=1))


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=40)
def test_gathering_agrees_with_its_definition(rows: int, batch: int, length: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 3)).astype(np.float32)
    low, high = random.integers(0, rows, (2, batch, length))
    weights = random.random((2, batch, length)).astype(np.float32)
    places = Gather(low, high, *weights)
    wanted = (values[low] * weights[0][..., None] + values[high] * weights[1][..., None]).transpose(0, 2, 1)
    for ops in (HostOps(), BOUND):
        assert to_numpy(ops.gather(values, places)) == pytest.approx(wanted, abs=1e-6)


def test_features_reach_the_detector_without_a_copy_to_the_host() -> None:
    backbone = OnnxSession(graphs.brightness_features(), CPU, bind=True)
    detector = OnnxSession(graphs.point_candidates(), CPU, bind=True)
    clips = np.full((6, 1, 4, 4, 3), 255, np.uint8)
    parts: list[Tensor] = [backbone.run({"clips": clips}, keep=["features"])["features"] for _ in range(2)]
    rows = BOUND.join_rows(parts)
    index = np.arange(12)[None]
    ones = np.ones((1, 12), np.float32)
    windows = BOUND.gather(rows, Gather(index, index, ones, 0 * ones))
    for tensor in (*parts, rows, windows):
        assert not isinstance(tensor, np.ndarray)
    scores = to_numpy(detector.run({"features": windows, "mask": np.ones((1, 12), bool)})["scores"])
    assert scores[0, :, 0] == pytest.approx(1.0)
