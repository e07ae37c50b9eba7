"""Feature files: ours come back as they were written, those of others by a rule, and nothing unfit comes in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_test
from hypothesis import strategies as st

from service.errors import InvalidOptions
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import ClipRule, SnippetGrid
from tests.support import bundles
from training import feature_files
from training.feature_files import FeatureRule, FeatureSettings

RULE = FeatureRule(stride_frames=4, offset_frames=8, clip_frames=16, fps=25)


@pytest.fixture
def bundle(tmp_path):
    return bundles.candidates(tmp_path / "bundle")


@pytest.fixture
def settings(bundle) -> FeatureSettings:
    return FeatureSettings.from_manifest(bundle, channels=3)


def sequence(settings: FeatureSettings, num_frames: int = 21, seed: int = 0) -> FeatureSequence:
    grid = settings.grid
    rule = ClipRule(1, 1, grid.stride_frames, settings.clip_span_frames, grid.tail == "pad")
    values = np.random.default_rng(seed).normal(size=(rule.count(num_frames), 3)).astype(np.float32)
    times_s = 0.3 + np.arange(num_frames) / 25
    stands = SnippetGrid(times_s, float(times_s[-1] + 0.04), float(grid.stride_frames), grid.offset_frames)
    return FeatureSequence(values, None, stands, settings.clip_span_frames)


def write(path: Path, settings: FeatureSettings, **how) -> Path:
    feature_files.write(path, sequence(settings, **how), settings, source_bytes=1000)
    return path


def test_a_file_of_ours_gives_back_values_and_exact_times(tmp_path, settings):
    given_ = sequence(settings)
    found = feature_files.load(write(tmp_path / "a.npz", settings), settings)
    np.testing.assert_array_equal(found.values, given_.values)
    np.testing.assert_array_equal(found.grid.frame_times_s, given_.grid.frame_times_s)
    assert found.grid.end_s == given_.grid.end_s
    assert (found.grid.stride_frames, found.grid.offset_frames, found.clip_span_frames) == (2, 2, 4)


def test_features_at_a_sampling_rate_keep_it(tmp_path):
    described = {"fps": 5.0, "stride_frames": 2, "offset_frames": 2, "tail": "drop"}
    settings = FeatureSettings.from_manifest(bundles.candidates(tmp_path / "b", grid=described))
    found = feature_files.load(write(tmp_path / "a.npz", settings), settings)
    assert found.grid.sampling_s == 0.2


def test_equal_features_are_equal_files_whenever_they_are_written(tmp_path, settings, monkeypatch):
    first = write(tmp_path / "a.npz", settings).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert write(tmp_path / "b.npz", settings).read_bytes() == first
    assert write(tmp_path / "c.npz", settings, seed=1).read_bytes() != first


def test_half_precision_takes_half_the_room_and_comes_back_as_single(tmp_path, settings):
    half = replace(settings, dtype="float16")
    found = feature_files.load(write(tmp_path / "a.npz", half, num_frames=20_001), half)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, sequence(settings, num_frames=20_001).values, rtol=1e-3, atol=1e-7)
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["values"].dtype == np.float16


def test_what_half_precision_cannot_hold_is_refused(tmp_path, settings):
    wide = replace(sequence(settings), values=np.full((9, 3), 70_000, np.float32))
    with pytest.raises(InvalidOptions, match=r"a\.npz: features up to 70000 do not fit float16"):
        feature_files.write(tmp_path / "a.npz", wide, replace(settings, dtype="float16"), source_bytes=1)
    assert list(tmp_path.glob("*.npz")) == []
    assert list(tmp_path.glob(".*")) == []


def test_features_that_are_not_numbers_are_not_written(tmp_path, settings):
    broken = replace(sequence(settings), values=np.full((9, 3), np.nan, np.float32))
    with pytest.raises(InvalidOptions, match="not finite"):
        feature_files.write(tmp_path / "a.npz", broken, settings, source_bytes=1)


def test_settings_come_back_from_their_folder(tmp_path, settings):
    feature_files.write_settings(tmp_path, settings)
    assert feature_files.read_settings(tmp_path) == settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "holds no features.json"),
        ("{", "cannot be read"),
        ('{"schema_version": 2}', "schema_version 2 is not known"),
        ('{"schema_version": 1, "colour": 1}', "bundle_name: missing key"),
    ],
)
def test_settings_that_cannot_be_read_are_told(tmp_path, text, told):
    if text is not None:
        (tmp_path / "features.json").write_text(text)
    with pytest.raises(InvalidOptions, match=told):
        feature_files.read_settings(tmp_path)


def test_a_changed_byte_anywhere_is_noticed_or_changes_nothing(tmp_path, settings):
    path = write(tmp_path / "a.npz", settings)
    sound, content = feature_files.read(path, settings), path.read_bytes()
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0b1000001]) + content[place + 1 :])
        try:
            found = feature_files.read(path, settings)
        except InvalidOptions:
            refused += 1
            continue
        np.testing.assert_array_equal(found.values, sound.values)
        np.testing.assert_array_equal(found.frame_times_s, sound.frame_times_s)
        assert (found.end_s, found.source_bytes) == (sound.end_s, sound.source_bytes)
    assert refused > len(content) / 2


@pytest.mark.parametrize("keep_bytes", [0, 10, 300])
def test_a_truncated_file_is_refused(tmp_path, settings, keep_bytes):
    path = write(tmp_path / "a.npz", settings)
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(InvalidOptions, match=r"a\.npz: cannot be read"):
        feature_files.load(path, settings)


def test_a_file_made_with_other_settings_is_refused(tmp_path, settings):
    path = write(tmp_path / "a.npz", settings)
    other = replace(settings, streams=(replace(settings.streams[0], frame_step=2),))
    with pytest.raises(InvalidOptions, match="was made with other settings"):
        feature_files.load(path, other)


def test_settings_of_another_bundle_around_the_same_backbone_fit(tmp_path, settings):
    path = write(tmp_path / "a.npz", settings)
    other = replace(settings, bundle_name="trained", bundle_version="2.0.0", bundle_sha256="0" * 64)
    assert feature_files.load(path, other).num_snippets == 9


def test_every_difference_from_the_model_is_named_at_once(tmp_path, bundle):
    grid = {"fps": 10.0, "stride_frames": 16, "offset_frames": 0, "tail": "pad"}
    streams = [bundles.stream(outputs={"features": "features"}, clip_frames=8, crop_px=[8, 8])]
    other = bundles.candidates(tmp_path / "other", grid=grid, streams=streams)
    have = FeatureSettings.from_manifest(other, channels=5)
    want = FeatureSettings.from_manifest(bundle, channels=3)
    have = replace(have, streams=(replace(have.streams[0], graph_sha256="f" * 64),))
    with pytest.raises(InvalidOptions) as caught:
        feature_files.refuse_mismatch(have, want)
    for told in (
        "stride 16 given, 2 expected",
        "offset 0.0 given, 2.0 expected",
        "clip frames 8 given, 4 expected",
        "fps 10.0 given, native expected",
        "channels 5 given, 3 expected",
        "tail 'pad' given, 'drop' expected",
        "another backbone (graph ffffffffffff",
        "crop_px (8, 8) given, none expected",
    ):
        assert told in str(caught.value)


def test_streams_in_another_order_are_a_mismatch(settings):
    rgb = settings.streams[0]
    flow = replace(rgb, name="flow")
    with pytest.raises(InvalidOptions, match=r"streams rgb \+ flow given, flow \+ rgb expected"):
        feature_files.refuse_mismatch(replace(settings, streams=(rgb, flow)), replace(settings, streams=(flow, rgb)))


def test_features_of_a_bundle_fit_its_own_manifest(bundle, settings):
    feature_files.refuse_mismatch(settings, bundle.manifest)


def test_a_rule_is_held_against_a_manifest_too(bundle):
    feature_files.refuse_mismatch(FeatureRule(stride_frames=2, offset_frames=2, clip_frames=4), bundle.manifest)
    with pytest.raises(InvalidOptions, match=r"stride 4 given, 2 expected; offset 8 given.*fps 25 given, native"):
        feature_files.refuse_mismatch(RULE, bundle.manifest)


def test_a_rule_that_makes_no_sense_is_told_all_at_once():
    with pytest.raises(InvalidOptions, match=r"stride_frames is 0.*clip_frames is 0.*fps is -1"):
        FeatureRule(stride_frames=0, offset_frames=0, clip_frames=0, fps=-1)


VALUES = np.arange(30, dtype=np.float32).reshape(10, 3)


def save(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, features=values)
    else:
        with h5py.File(path, "w") as file:
            file["other"] = values + 1
            file[path.stem] = values
    return path


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("layout", ["tc", "ct"])
def test_features_of_others_are_read_in_either_layout(tmp_path, ending, layout):
    path = save(tmp_path / f"v1{ending}", VALUES if layout == "tc" else VALUES.T)
    found = feature_files.load(path, replace(RULE, layout=layout), duration_s=2.1)
    np.testing.assert_array_equal(found.values, VALUES)
    assert found.grid.to_seconds(0) == pytest.approx(8 / 25)
    assert found.grid.to_seconds(3) == pytest.approx(20 / 25)
    assert (found.grid.end_s, found.clip_span_frames) == (2.1, 16)


def test_without_a_duration_the_rows_say_how_long_the_video_is(tmp_path):
    found = feature_files.load(save(tmp_path / "v.npy", VALUES), RULE)
    assert found.grid.end_s == pytest.approx((9 * 4 + 16) / 25)


def test_a_native_rate_is_the_video_s_own(tmp_path):
    path = save(tmp_path / "v.npy", VALUES)
    native = replace(RULE, fps=None)
    assert feature_files.load(path, native, fps=50).grid.to_seconds(0) == pytest.approx(8 / 50)
    with pytest.raises(InvalidOptions, match=r"v\.npy: the frame rate is None"):
        feature_files.load(path, native)


def test_an_archive_of_several_arrays_needs_a_name(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, rgb=VALUES, flow=VALUES + 1)
    np.testing.assert_array_equal(feature_files.load(path, replace(RULE, array="flow")).values, VALUES + 1)
    with pytest.raises(InvalidOptions, match="holds the arrays 'rgb', 'flow'; one must be named"):
        feature_files.load(path, RULE)
    with pytest.raises(InvalidOptions, match="'pose' is none of them"):
        feature_files.load(path, replace(RULE, array="pose"))


def test_one_h5_holds_many_videos_and_each_may_be_a_group(tmp_path):
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as file:
        file["v_1/c3d"] = VALUES
        file["v_2"] = VALUES + 1
    for name, expected in (("v_1", VALUES), ("v_2", VALUES + 1)):
        np.testing.assert_array_equal(feature_files.load(path, RULE, video=name).values, expected)
    deep = replace(RULE, array="{video}/c3d")
    np.testing.assert_array_equal(feature_files.load(path, deep, video="v_1").values, VALUES)
    with pytest.raises(InvalidOptions, match=r"holds no data set 'v_3'; it has 2 entries"):
        feature_files.load(path, RULE, video="v_3")


def test_a_video_is_found_with_and_without_the_prefix_of_activitynet_and_by_its_own_name_first(tmp_path):
    prefixed, plain = save(tmp_path / "v_a.npy", VALUES), save(tmp_path / "b.npy", VALUES)
    assert feature_files.find(tmp_path, "a") == prefixed
    assert feature_files.find(tmp_path, "v_b") == plain
    own = save(tmp_path / "a.npz", VALUES)
    assert feature_files.find(tmp_path, "a") == own
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["v_c"] = VALUES
    np.testing.assert_array_equal(feature_files.load(tmp_path / "all.h5", RULE, video="c").values, VALUES)


def test_videos_without_features_are_all_told_whatever_holds_them(tmp_path):
    save(tmp_path / "a.npy", VALUES)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["v_a/c3d"] = VALUES
    np.savez(tmp_path / "all.npz", v_a=VALUES, d=VALUES)
    named = replace(RULE, array="{video}")
    for source, rule in (
        (tmp_path, RULE),
        (tmp_path / "all.h5", RULE),
        (tmp_path / "all.h5", replace(RULE, array="{video}/c3d")),
        (tmp_path / "all.npz", named),
    ):
        assert feature_files.lacking(source, ["a"], rule.array) == []
        told = feature_files.lacking(source, ["a", "b", "c"], rule.array)
        assert len(told) == 2
        assert "'b'" in told[0]
        assert "'c'" in told[1]
    assert feature_files.lacking(tmp_path / "a.npy", ["a", "b"]) == []


def test_an_array_that_calls_itself_an_archive_is_refused(tmp_path):
    path = save(tmp_path / "a.npy", VALUES).rename(tmp_path / "a.npz")
    with pytest.raises(InvalidOptions, match=r"a\.npz: cannot be read as features: it is no archive of NumPy's arrays"):
        feature_files.load(path, RULE)
    with pytest.raises(InvalidOptions, match=r"a\.npz: cannot be read as features: it is no archive of NumPy's arrays"):
        feature_files.lacking(path, ["a"], "{video}")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros(5, np.float32), r"shape \(5,\); \(T, C\) is needed"),
        (np.zeros((1, 5, 3), np.float32), r"shape \(1, 5, 3\)"),
        (np.zeros((0, 3), np.float32), r"shape \(0, 3\)"),
        (np.array([[1.0, np.nan, np.inf]]), "2 of 3 values are not finite"),
        (np.array([[1e300, 0.0, 0.0]]), "1 of 3 values are not finite"),
        (np.zeros((5, 4), np.float32), "4 channels in features .*; 3 are needed"),
        (np.array([["a", "b", "c"]]), "features are <U1; numbers are needed"),
        (np.array([[{}, {}, {}]], object), "cannot be read as features"),
    ],
)
def test_unfit_features_are_refused_by_the_name_of_their_file(tmp_path, values, told):
    np.save(tmp_path / "v_7.npy", values)
    with pytest.raises(InvalidOptions, match=rf"v_7\.npy: .*{told}"):
        feature_files.load(tmp_path / "v_7.npy", replace(RULE, channels=3))


@pytest.mark.parametrize(
    "shape", ["(10**12, 512)", "(1000000000000, 512)", "(True, 3)", "(-1, 3)", "(" * 300, "{}", "(1,"]
)
def test_a_header_that_lies_is_refused(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path = tmp_path / "v.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(60))
    with pytest.raises(InvalidOptions, match=r"v\.npy: cannot be read as features"):
        feature_files.load(path, RULE)


@pytest.mark.parametrize("array", ["{nope}", "{video", "{0}", "{video.__class__}", "}{"])
def test_the_name_of_an_array_is_a_name_whatever_it_holds(tmp_path, array):
    np.savez(tmp_path / "v.npz", **{array: VALUES, "other": VALUES + 1})
    found = feature_files.load(tmp_path / "v.npz", replace(RULE, array=array))
    np.testing.assert_array_equal(found.values, VALUES)
    with pytest.raises(InvalidOptions, match="is none of them"):
        feature_files.load(tmp_path / "v.npz", replace(RULE, array=f"{array}?"))


@pytest.mark.parametrize("changes", [{"stride_frames": 1e6}, {"stride_frames": 1e12}, {"clip_frames": 10**8}])
def test_a_rule_by_which_rows_are_a_video_of_weeks_is_refused(tmp_path, changes):
    path = save(tmp_path / "v.npy", np.zeros((60, 3), np.float32))
    with pytest.raises(InvalidOptions, match=r"60 rows, .* at most 2e\+07 are accepted"):
        feature_files.load(path, replace(RULE, **changes))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, ending):
    path = tmp_path / f"v{ending}"
    path.write_bytes(b"not features at all")
    with pytest.raises(InvalidOptions, match=r"v\.\w+: cannot be read as features"):
        feature_files.load(path, RULE)


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(InvalidOptions, match="No such file"):
        feature_files.load(tmp_path / "v.npy", RULE)
    with pytest.raises(InvalidOptions, match=r"found '\.mat'"):
        feature_files.load(tmp_path / "v.mat", RULE)


def test_a_duration_that_the_rows_contradict_is_refused(tmp_path):
    path = save(tmp_path / "v.npy", np.zeros((100, 3), np.float32))
    with pytest.raises(InvalidOptions, match=r"100 rows, one every 4 frames at 25 a second, cover 16\.5 s; .* 64\.0 s"):
        feature_files.load(path, RULE, duration_s=64)


def test_features_are_found_by_the_video_s_name(tmp_path):
    path = save(tmp_path / "v.npy", VALUES)
    assert feature_files.find(tmp_path, "v") == path
    assert feature_files.find(path, "anything") == path
    with pytest.raises(InvalidOptions, match="no feature file for 'w': neither w or v_w with"):
        feature_files.find(tmp_path, "w")
    save(tmp_path / "v.npz", VALUES)
    with pytest.raises(InvalidOptions, match=r"several feature files for 'v': v\.npz, v\.npy"):
        feature_files.find(tmp_path, "v")


@given(
    rows=st.integers(1, 200),
    stride=st.integers(1, 32),
    clip=st.integers(1, 64),
    fps=st.floats(1, 120),
    offset=st.floats(0, 32),
)
def test_rows_of_others_stand_on_the_grid_that_their_rule_says(tmp_path_factory, rows, stride, clip, fps, offset):
    path = tmp_path_factory.mktemp("grid") / "v.npy"
    np.save(path, np.zeros((rows, 2), np.float32))
    rule = FeatureRule(stride_frames=stride, offset_frames=offset, clip_frames=clip, fps=fps)
    grid = feature_files.load(path, rule).grid
    positions = np.arange(rows)
    seconds = grid.to_seconds(positions)
    np.testing.assert_allclose(seconds, (positions * stride + offset) / fps, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(grid.to_positions(seconds), positions, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def wide_settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("times")
    return folder, FeatureSettings.from_manifest(bundles.candidates(folder / "bundle"))


@settings_of_test(max_examples=30)
@given(num_frames=st.integers(1, 120), start_s=st.floats(0, 1000), jitter_s=st.floats(0, 0.03))
def test_whatever_the_times_of_a_video_they_come_back(wide_settings, num_frames, start_s, jitter_s):
    folder, settings = wide_settings
    made = sequence(settings, num_frames)
    times_s = start_s + np.arange(num_frames) / 25 + jitter_s * np.sin(np.arange(num_frames))
    made = replace(made, grid=replace(made.grid, frame_times_s=times_s, end_s=float(times_s[-1]) + 0.04))
    feature_files.write(folder / "v.npz", made, settings, source_bytes=1)
    found = feature_files.load(folder / "v.npz", settings)
    np.testing.assert_array_equal(found.grid.to_seconds(np.arange(-2, 70)), made.grid.to_seconds(np.arange(-2, 70)))


def test_reading_features_and_extracting_them_loads_no_torch():
    asked = "import sys, training.extract, training.feature_files; sys.exit(bool({'torch', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
