"""The whole walk on videos whose truth is known, with every kind of bundle."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models import bundle as bundles
from service.errors import InferenceFailed, InvalidOptions, VideoNotFound
from service.localization import DetectOptions, Localization, Progress
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.feature_ops import DeviceOps
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from tests.support import bundles as tiny
from tests.support import graphs, videos

CPU = OnnxOptions(device="cpu", threads=1)
FLASHES = ((2.0, 4.0), (6.0, 7.0))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.write(tmp_path_factory.mktemp("v") / "flashes.mp4", videos.flashes(*FLASHES), duration_s=10)


def run(folder: Path, video: Path, **options) -> Localization:
    return localize(video, loaded_model.load(folder, CPU), DetectOptions(**options))


def found(result: Localization, label: str = "bright") -> list[tuple[float, float]]:
    return sorted((s.start_s, s.end_s) for s in result.segments if s.label == label)


def close_to(intervals: tuple[tuple[float, float], ...], abs_s: float):
    return [pytest.approx(interval, abs=abs_s) for interval in intervals]


def test_class_scores_of_single_frames_become_segments_to_the_frame(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b")
    result = run(tmp_path / "b", video)
    assert found(result) == close_to(FLASHES, 1e-3)
    assert found(result, "dark") == close_to(((0, 2), (4, 6), (7, 10)), 1e-3)


def test_sampling_below_the_rate_of_the_video_keeps_its_time(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b", grid={"fps": 8.0, "stride_frames": 1, "offset_frames": 0})
    result = run(tmp_path / "b", video)
    assert found(result) == close_to(FLASHES, 0.13)
    assert (result.video.num_frames, result.video.fps) == (250, pytest.approx(25))


def test_sampling_above_the_rate_of_the_video_keeps_its_time(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b", grid={"fps": 60.0, "stride_frames": 1, "offset_frames": 0})
    assert found(run(tmp_path / "b", video)) == close_to(FLASHES, 0.03)


WINDOWINGS = [
    {"mode": "whole", "multiple_of": 4},
    {"mode": "whole", "multiple_of": 4, "max_length": 32},
    {"mode": "sliding", "length": 16, "hop": 8},
    {"mode": "sliding", "length": 500, "hop": 250, "tail": "pad"},
]


@pytest.mark.parametrize("windowing", WINDOWINGS, ids=str)
def test_candidates_stand_on_the_timeline_whatever_the_windows(tmp_path: Path, video: Path, windowing: dict) -> None:
    tiny.candidates(tmp_path / "b", windowing=windowing)
    result = run(tmp_path / "b", video)
    # A candidate covers [t, t + 1] snippets, each 2 frames at 25 a second, from the centre of a clip of 4 frames.
    assert {s.label for s in result.segments} == {"bright"}
    starts = sorted(s.start_s for s in result.segments)
    assert len(starts) == len(set(starts))
    inside = [start for start in starts if any(a - 0.05 <= start <= b + 0.05 for a, b in FLASHES)]
    assert inside == starts
    assert starts[0] == pytest.approx(2.0, abs=0.09)
    assert starts[-1] == pytest.approx(7.0, abs=0.09)


def test_a_resized_video_keeps_its_seconds(tmp_path: Path, video: Path) -> None:
    tiny.candidates(tmp_path / "b", windowing={"mode": "resize", "length": 200})
    starts = sorted(s.start_s for s in run(tmp_path / "b", video).segments)
    assert starts[0] == pytest.approx(2.0, abs=0.12)
    assert starts[-1] == pytest.approx(7.0, abs=0.12)


@pytest.mark.parametrize("windowing", [{"mode": "whole"}, {"mode": "sliding", "length": 20, "hop": 7}], ids=str)
def test_activations_of_a_detector_become_segments(tmp_path: Path, video: Path, windowing: dict) -> None:
    tiny.activations(tmp_path / "b", windowing=windowing)
    assert found(run(tmp_path / "b", video)) == close_to(FLASHES, 0.1)


def named_by_classifier(folder: Path, video_scores: list[float], num_classes: int, rules: dict) -> None:
    described = tiny.manifest(
        streams=[tiny.stream(outputs={"features": "features"})],
        output_kind="candidates",
        windowing={"mode": "whole"},
        detector={"graph": "detector.onnx"},
        classifier={"graph": "classifier.onnx"},
        postprocessing={"use": rules},
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(),
        "detector.onnx": graphs.point_candidates(num_classes=num_classes),
        "classifier.onnx": graphs.constant_video_scores(video_scores),
    }
    bundles.write(folder, described, files)


def test_a_classifier_names_what_a_detector_only_finds(tmp_path: Path, video: Path) -> None:
    rules = {"min_candidate_score": 0.5, "fusion": {"rule": "product", "classes": 1}, "top_k": 3}
    named_by_classifier(tmp_path / "b", [0.2, 0.8], 1, rules)
    result = run(tmp_path / "b", video)
    assert [s.label for s in result.segments] == ["dark"] * 3
    assert result.segments[0].score == pytest.approx(0.8 * 235 / 255, abs=0.02)


def test_two_streams_share_one_pass_and_join_their_features(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 400), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 2)

    def slides_between_1_and_2_s(time_s: float) -> np.ndarray:
        left = 200 - 2 * round(25 * min(max(time_s - 1, 0), 1))
        return texture[:, left : left + 96, None]

    moving = videos.write(tmp_path / "v.mp4", slides_between_1_and_2_s, duration_s=3, size_px=(96, 64))
    flow = tiny.stream(
        name="flow",
        kind="flow",
        graph="features.flow.onnx",
        clip_frames=4,
        resize={"mode": "short_side", "size_px": 48},
        crop_px=[32, 32],
        input={"dtype": "float32"},
        flow={"algorithm": "dis_fast", "clip_px": 20.0},
        outputs={"features": "features"},
    )
    described = tiny.manifest(
        streams=[tiny.stream(outputs={"features": "features"}, clip_frames=4), flow],
        grid={"fps": "native", "stride_frames": 2, "offset_frames": 2},
        output_kind="candidates",
        windowing={"mode": "whole"},
        detector={"graph": "detector.onnx"},
        postprocessing={"use": {"min_candidate_score": 0.5}},
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(),
        "features.flow.onnx": graphs.flow_features(),
        # Channels 0 to 2 are the colours of the first stream; 3 is the second one's mean displacement to the right.
        "detector.onnx": graphs.point_candidates(channel=3),
    }
    bundles.write(tmp_path / "b", described, files)
    result = run(tmp_path / "b", moving)
    assert result.details["flow"] == "dis_fast"
    starts = sorted(s.start_s for s in result.segments)
    assert len(starts) >= 10
    assert (starts[0], starts[-1]) == pytest.approx((1.0, 2.0), abs=0.13)


def test_a_video_shorter_than_a_clip_is_padded_and_answered(tmp_path: Path) -> None:
    short = videos.write(tmp_path / "one.mp4", videos.flashes((0, 9)), duration_s=0.04)
    tiny.candidates(tmp_path / "b")
    result = run(tmp_path / "b", short)
    assert result.video.num_frames == 1
    assert all(0 <= s.start_s < s.end_s <= 0.041 for s in result.segments)


def test_the_caller_can_narrow_the_answer(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b")
    assert {s.label for s in run(tmp_path / "b", video, labels=("dark",)).segments} == {"dark"}
    assert len(run(tmp_path / "b", video, top_k=1).segments) == 1
    with pytest.raises(InvalidOptions, match="label 'night' is not one of the model's"):
        run(tmp_path / "b", video, labels=("night",))


def test_an_evaluation_preset_must_exist_to_be_used(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b")
    with pytest.raises(InvalidOptions, match="no preset 'evaluation'"):
        localize(video, loaded_model.load(tmp_path / "b", CPU), preset="evaluation")


def test_progress_rises_to_the_end(tmp_path: Path, video: Path) -> None:
    tiny.classifier(tmp_path / "b")
    seen: list[Progress] = []
    localize(video, loaded_model.load(tmp_path / "b", CPU), on_progress=seen.append)
    assert list(dict.fromkeys(step.stage for step in seen)) == ["probe", "decode", "localize", "segments"]
    assert all(step.done <= step.total for step in seen)
    decoded = [step for step in seen if step.stage == "decode"]
    assert [step.done for step in decoded] == sorted(step.done for step in decoded)
    assert decoded[-1].done == pytest.approx(10, abs=0.1)
    assert [step.total for step in decoded] == pytest.approx([10] * len(decoded), abs=0.1)


def test_progress_counts_windows(tmp_path: Path, video: Path) -> None:
    tiny.candidates(tmp_path / "b", windowing={"mode": "sliding", "length": 16, "hop": 8})
    seen: list[Progress] = []
    localize(video, loaded_model.load(tmp_path / "b", CPU), on_progress=seen.append)
    windows = [step.done for step in seen if step.stage == "localize"]
    assert windows[:2] == [0, 8]
    assert seen[-2].stage == "segments"
    assert windows[-1] == next(step.total for step in reversed(seen) if step.stage == "localize")


def test_the_answer_says_what_ran_and_how_long_it_took(tmp_path: Path, video: Path) -> None:
    bundle = tiny.classifier(tmp_path / "b")
    result = run(tmp_path / "b", video)
    assert (result.model.name, result.model.sha256) == ("brightness", bundle.sha256)
    assert set(result.timings_s) >= {"decode", "features", "localize", "segments", "total"}
    assert sum(v for k, v in result.timings_s.items() if k != "total") <= result.timings_s["total"] + 0.01


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    tiny.classifier(tmp_path / "b")
    with pytest.raises(VideoNotFound):
        run(tmp_path / "b", tmp_path / "nowhere.mp4")


def test_label_groups_take_the_video_scores_of_their_members(tmp_path: Path, video: Path) -> None:
    described = tiny.manifest(
        labels=["bright", "dark"],
        label_groups=[{"label": "light", "members": ["bright"]}],
        streams=[tiny.stream(outputs={"features": "features"}, clip_frames=2)],
        grid={"fps": "native", "stride_frames": 2, "offset_frames": 0},
        windowing={"mode": "whole"},
        detector={"graph": "detector.onnx"},
        classifier={"graph": "classifier.onnx"},
        postprocessing={"use": {"grouping": tiny.GROUPING, "fusion": {"rule": "product", "classes": 1}}},
    )
    for name, scores, expected in (("a", [0.9, 0.1], {"light"}), ("b", [0.1, 0.9], {"dark"})):
        files = {
            "features.rgb.onnx": graphs.brightness_features(),
            "detector.onnx": graphs.activation_detector(),
            "classifier.onnx": graphs.constant_video_scores(scores),
        }
        bundles.write(tmp_path / name, described, files)
        assert {s.label for s in run(tmp_path / name, video).segments} == expected


@pytest.mark.parametrize("bad", [float("nan"), 7.0, -1.0])
def test_video_scores_that_are_no_probabilities_are_an_error(tmp_path: Path, video: Path, bad: float) -> None:
    named_by_classifier(tmp_path / "b", [bad, 0.5], 2, {"fusion": {"rule": "sqrt", "classes": 1}})
    with pytest.raises(InferenceFailed, match="the classifier gave 2 video scores"):
        run(tmp_path / "b", video)


def test_fusion_without_a_classifier_is_refused_before_the_work(tmp_path: Path) -> None:
    rules = {"nms": {"kind": "hard"}, "fusion": {"rule": "product"}}
    tiny.candidates(tmp_path / "b", postprocessing={"use": rules})
    with pytest.raises(InvalidOptions, match="video-level class scores, and its bundle has no classifier"):
        run(tmp_path / "b", tmp_path / "never-looked-at.mp4")


def test_streams_of_different_clip_lengths_see_the_same_moment(tmp_path: Path, video: Path) -> None:
    short = tiny.stream(name="moment", graph="moment.onnx", fusion_weight=1000.0)
    long = tiny.stream(name="passage", graph="passage.onnx", clip_frames=16)
    described = tiny.manifest(
        streams=[short, long], grid={"fps": "native", "stride_frames": 1, "offset_frames": 8, "tail": "pad"}
    )
    described["postprocessing"] = {"use": {"grouping": {**tiny.GROUPING, "support": "mean"}}}
    scores = graphs.brightness_scores()
    bundles.write(tmp_path / "b", described, {"moment.onnx": scores, "passage.onnx": scores})
    assert found(run(tmp_path / "b", video)) == close_to(FLASHES, 0.13)


def test_a_point_stands_for_its_surroundings_to_the_very_ends(tmp_path: Path) -> None:
    bright = videos.write(tmp_path / "v.mp4", videos.flashes((0, 99)), duration_s=3)
    grid = {"fps": "native", "stride_frames": 16, "offset_frames": 8}
    tiny.activations(tmp_path / "b", streams=[tiny.stream(outputs={"features": "features"}, clip_frames=16)], grid=grid)
    assert found(run(tmp_path / "b", bright)) == close_to(((0.0, 3.0),), 1e-3)


def test_a_detector_with_a_fixed_batch_sees_every_window_once(tmp_path: Path, video: Path) -> None:
    windowing = {"mode": "sliding", "length": 16, "hop": 16, "tail": "pad"}
    described = tiny.manifest(
        streams=[tiny.stream(outputs={"features": "features"}, clip_frames=2)],
        grid={"fps": "native", "stride_frames": 2, "offset_frames": 0},
        output_kind="candidates",
        windowing=windowing,
        detector={"graph": "detector.onnx"},
        postprocessing={"use": {"min_candidate_score": 0.5}},
    )
    starts = {}
    for batch in (None, 3):
        files = {
            "features.rgb.onnx": graphs.brightness_features(),
            "detector.onnx": graphs.point_candidates(batch=batch, length=16),
        }
        bundles.write(tmp_path / str(batch), described, files)
        starts[batch] = [(s.start_s, s.score) for s in run(tmp_path / str(batch), video).segments]
    assert starts[None] == starts[3]
    # 75 bright frames in pairs, of which one is only half bright.
    assert len(starts[3]) == 37


def test_a_graph_whose_scores_have_another_shape_is_an_error_of_inference(tmp_path: Path, video: Path) -> None:
    described = tiny.manifest()
    bundles.write(tmp_path / "b", described, {"features.rgb.onnx": graphs.scores_of_shape([1, 2])})
    with pytest.raises(InferenceFailed, match=r"gave scores \(1, 2\) for 32 clips and 2 labels"):
        run(tmp_path / "b", video)


@pytest.mark.parametrize("windowing", [*WINDOWINGS, {"mode": "resize", "length": 57}], ids=str)
def test_features_that_stay_on_the_device_give_the_same_segments(tmp_path: Path, video: Path, windowing: dict) -> None:
    bundle = tiny.candidates(tmp_path / "b", windowing=windowing)
    bound = {name: OnnxSession(bundle.read_file(name), CPU, bind=True) for name in bundle.manifest.graphs}
    on_device = loaded_model.join(bundle, bound, CPU)
    assert isinstance(on_device.ops, DeviceOps)
    assert localize(video, on_device).segments == run(tmp_path / "b", video).segments


def test_a_clip_can_begin_where_the_bundle_says(tmp_path: Path, video: Path) -> None:
    ends = {}
    for first_frame in (0, 15):
        short = tiny.stream(name="moment", graph="moment.onnx", fusion_weight=1000.0, first_frame=first_frame)
        long = tiny.stream(name="passage", graph="passage.onnx", clip_frames=16)
        grid = {"fps": "native", "stride_frames": 16, "offset_frames": 8, "tail": "pad"}
        described = tiny.manifest(streams=[short, long], grid=grid)
        scores = graphs.brightness_scores()
        bundles.write(tmp_path / str(first_frame), described, {"moment.onnx": scores, "passage.onnx": scores})
        ends[first_frame] = found(run(tmp_path / str(first_frame), video))
    # Frame 48 (1.92 s) is dark and frame 63 bright: only the end of that clip sees the flash that begins at 2 s.
    assert ends[0][0][0] == pytest.approx(64 / 25)
    assert ends[15][0][0] == pytest.approx(48 / 25)
