"""Samples of videos, batches of samples, and a detector that learns: what the loop is given to train detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporters.exportable import from_detector
from exporters.to_torchscript import to_torchscript
from models import bundle as bundles
from models.detectors.detector import Detector
from models.manifest import Grid, Resized
from service.errors import InvalidOptions
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import SnippetGrid
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions
from tests.support import bundles as supported
from tests.support import graphs
from tests.training import footage
from tests.training.evaluation import scenes
from training import detector_job, eager, feature_files, loop, run, samples
from training import plan as plans
from training.evaluation.protocols import ACTIVITYNET, THUMOS14
from training.feature_files import FeatureSettings
from training.samples import Sampling, Steps


@st.composite
def videos(draw: st.DrawFn) -> Steps:
    total = draw(st.integers(1, 60))
    count = draw(st.integers(1, 5))
    starts = draw(st.lists(st.floats(-2, total), min_size=count, max_size=count))
    widths = draw(st.lists(st.floats(0.2, 50), min_size=count, max_size=count))
    spans = np.array([(start, start + width) for start, width in zip(starts, widths, strict=True)])
    features = np.arange(total, dtype=np.float32)[None] + 1
    return Steps(features, spans, np.arange(count, dtype=np.int64), draw(st.sampled_from([0.0, 0.5, 2.0])))


@given(videos(), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_a_sample_holds_the_actions_that_its_cut_leaves_enough_of(
    video: Steps, length: int, trunc_thresh: float, seed: int
) -> None:
    sample = samples.draw(video, Sampling(length, trunc_thresh), np.random.default_rng(seed))
    total = video.features.shape[1]
    count = int(sample.mask.sum())
    assert sample.mask[:count].all()
    assert count == length if total > length else 0.9 * total - 1 <= count <= total
    first = int(sample.features[0, 0]) - 1
    np.testing.assert_array_equal(sample.features[0, :count], np.arange(first, first + count) + 1)
    assert not sample.features[0, count:].any()

    low, high = first - video.reach, first + count + video.reach
    clipped = np.clip(video.spans, low, high)
    shares = (clipped[:, 1] - clipped[:, 0]) / (video.spans[:, 1] - video.spans[:, 0])
    kept = sample.labels
    np.testing.assert_allclose(sample.spans, clipped[kept] - first)
    assert (shares[kept] > 0).all()
    enough = np.flatnonzero(shares >= max(trunc_thresh, 1e-9))
    assert set(enough) <= set(kept.tolist())
    if (shares[kept] < trunc_thresh - 1e-9).any():
        assert not enough.size  # only where no cut leaves enough of any action
    reachable = (video.spans[:, 0] < total + video.reach) & (video.spans[:, 1] > -video.reach)
    if reachable.any() and total > length:
        assert kept.size


def test_cuts_fall_on_every_place_that_holds_an_action() -> None:
    video = Steps(np.zeros((1, 10), np.float32), np.array([[4.0, 6.0]]), np.array([0]), 0.0)
    draws = np.random.default_rng(0)
    firsts = {samples.cut(video, 4, 1.0, draws)[0] for _ in range(200)}
    assert firsts == {2, 3, 4}


def sequence(values: np.ndarray, stride: float = 4.0, clip: int = 16, fps: float = 25.0) -> FeatureSequence:
    num_frames = int((len(values) - 1) * stride + clip)
    grid = SnippetGrid(np.arange(num_frames) / fps, num_frames / fps, stride, clip / 2)
    return FeatureSequence(values, None, grid, clip)


def test_actions_stand_where_their_snippets_are() -> None:
    values = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    found = samples.steps_of(sequence(values), np.array([[1.0, 2.0]]), np.array([0]), WHOLE)
    np.testing.assert_allclose(found.spans, [[(25 - 8) / 4, (50 - 8) / 4]])  # frames 25 and 50
    assert found.reach == 2.0
    np.testing.assert_array_equal(found.features, values.T)


def test_a_detector_of_fixed_length_sees_the_resized_video() -> None:
    values = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
    windowing = Resized(mode="resize", length=16, span="clips", offset_steps=0.5)
    found = samples.steps_of(sequence(values), np.array([[0.0, 132 / 25]]), np.array([0]), windowing)
    assert found.features.shape == (1, 16)
    assert (np.diff(found.features[0]) > 0).all()
    np.testing.assert_allclose(found.spans, [[-0.5, 15.5]])  # the whole video, whose middle steps are 0 to 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footage") / "root"
    footage.write(root)
    return root


def prepared(folder: Path, **training: Any) -> run.Prepared:
    return run.prepare(plans.parse(footage.plan(**training)), folder)


WHOLE = samples.windows.WHOLE_VIDEO


def equal(left: detector_job.Batch, right: detector_job.Batch) -> bool:
    same = torch.equal(left.features, right.features) and torch.equal(left.mask, right.mask)
    return same and all(
        torch.equal(a.spans, b.spans) and torch.equal(a.labels, b.labels)
        for a, b in zip(left.targets, right.targets, strict=True)
    )


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    one, two = prepared(folder, cache_mib=0).job, prepared(folder).job
    ahead = [one.batch(step) for step in range(6)]
    for step in (5, 0, 3, 3):
        assert equal(two.batch(step), ahead[step])
    assert not equal(ahead[0], ahead[2])
    assert not equal(ahead[0], prepared(folder, seed=1).job.batch(0))


def test_an_epoch_sees_every_video_once(folder: Path) -> None:
    job = prepared(folder, crop=None).job
    assert job.steps_per_epoch == 2
    for epoch in range(3):
        rows = torch.cat([job.batch(2 * epoch + place).features for place in range(2)])
        known = [torch.from_numpy(footage.values(video).T) for video in range(4)]
        assert sorted(next(n for n, video in enumerate(known) if torch.equal(video, row)) for row in rows) == [
            0,
            1,
            2,
            3,
        ]


def test_an_epoch_sees_every_video_as_often_as_asked(folder: Path) -> None:
    job = prepared(folder, crop=None, windows_per_video=3, batch_size=4).job
    assert job.steps_per_epoch == 3
    rows = torch.cat([job.batch(step).features for step in range(3)])
    known = [torch.from_numpy(footage.values(video).T) for video in range(4)]
    assert [sum(torch.equal(video, row) for row in rows) for video in known] == [3, 3, 3, 3]
    cropped = prepared(folder, crop=(0.5, 0.9), windows_per_video=8, batch_size=32).job.batch(0)
    assert len({(int(mask.sum()), float(row[0, 0])) for row, mask in zip(*cropped[:2], strict=True)}) > 8


def test_it_learns_four_videos_by_heart(folder: Path, tmp_path: Path) -> None:
    made = prepared(folder, epochs=24, warmup_epochs=2, learning_rate=3e-3, validate_every_epochs=0)
    config = plans.parse(footage.plan(epochs=24, warmup_epochs=2, learning_rate=3e-3, validate_every_epochs=0)).training
    loop.fit(made.job, config, tmp_path)
    figures = made.job.validate(made.job.network)
    assert figures["average"] > 0.9
    assert list(figures) == ["average", "mAP@0.3", "mAP@0.5", "mAP@0.7"]


def test_validation_answers_what_the_exported_bundle_answers(folder: Path, tmp_path: Path) -> None:
    made = prepared(folder)
    network = made.subject.network
    assert isinstance(network, Detector)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model = made.subject.loaded(network)
    manifest = supported.manifest(
        labels=list(footage.LABELS),
        streams=[supported.stream(outputs={"features": "features"})],
        output_kind="candidates",
        windowing=model.manifest.windowing.model_dump(),  # type: ignore[union-attr]
        detector={"graph": "detector.pt", "groups": "groups"},
        postprocessing=model.manifest.postprocessing.model_dump(exclude_unset=True),
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(channels=footage.CHANNELS),
        "detector.pt": to_torchscript(from_detector(network)),
    }
    written = bundles.write(tmp_path / "bundle", manifest, files)
    exported = loaded_model.load(tmp_path / "bundle", OnnxOptions(device="cpu"), trusted_torch=[written.sha256])
    video = made.test.load("video_0")
    expected, found = eager.localize(video, model), eager.localize(video, exported)
    assert len(expected) == len(found) > 50
    assert [segment.label for segment in expected] == [segment.label for segment in found]
    for key in ("start_s", "end_s", "score"):
        np.testing.assert_allclose([getattr(s, key) for s in expected], [getattr(s, key) for s in found], atol=1e-3)


def test_predictions_end_with_their_video() -> None:
    found = eager._within([eager.Segment(1.0, 9.0, "run", 0.5), eager.Segment(8.5, 9.0, "run", 0.4)], 8.0)
    assert found == [{"label": "run", "segment": [1.0, 8.0], "score": 0.5}]


def test_a_detector_of_any_class_is_judged_on_finding_actions(folder: Path) -> None:
    document = footage.plan()
    document["detector"]["options"] = {**footage.OPTIONS, "num_classes": 1}
    made = run.prepare(plans.parse(document), folder)
    assert made.subject.labels == (detector_job.ANY_CLASS,)
    assert 0 <= made.job.validate(made.job.network)["average"] <= 1
    assert all(target.labels.max() == 0 for target in made.job.batch(0).targets)


def test_features_of_our_own_say_themselves_how_they_were_made(folder: Path, tmp_path: Path) -> None:
    grid = Grid(fps=footage.FPS, stride_frames=1, offset_frames=0.5)
    settings = FeatureSettings("made", "1", "", (), grid, 1, channels=footage.CHANNELS)
    (tmp_path / "features").mkdir()
    feature_files.write_settings(tmp_path / "features", settings)
    foreign = prepared(folder)
    for number in range(4):
        found = foreign.test.load(f"video_{number}")
        feature_files.write(tmp_path / "features" / f"video_{number}.npz", found, settings, source_bytes=1)
    (tmp_path / "annotations.json").write_bytes((folder / "annotations.json").read_bytes())
    document = {**footage.plan(), "features": {"folder": "features"}}
    own = run.prepare(plans.parse(document), tmp_path)
    assert all(equal(own.job.batch(step), foreign.job.batch(step)) for step in range(4))


def test_labels_that_are_not_scored_are_not_trained() -> None:
    truth = scenes.ground_truth([(0, 0, 1, 0), (1, 2, 3, 1), (2, 4, 5, 2)])
    protocol = detector_job.replace(THUMOS14, ignored_label="c1")
    labels = detector_job.trained_labels(truth, protocol)
    assert labels == ("c0", "c2")
    assert detector_job.trained_labels(truth, ACTIVITYNET) == ("c0", "c1", "c2")
    found = detector_job.for_labels(truth, labels)
    assert found.label_indices.tolist() == [0, 1]
    assert found.video_indices.tolist() == [0, 2]


def test_options_that_do_not_fit_are_told_before_training(folder: Path) -> None:
    document = footage.plan()
    document["loss"] = {}
    with pytest.raises(InvalidOptions, match="actionformer: 5 regression ranges for 4 levels"):
        run.prepare(plans.parse(document), folder)
    document = footage.plan()
    document["detector"]["options"] = {**footage.OPTIONS, "input_channels": [7]}
    with pytest.raises(InvalidOptions, match="actionformer takes 7 feature channels; the features have 6"):
        run.prepare(plans.parse(document), folder)
    document["detector"]["options"] = {**footage.OPTIONS, "num_classes": 9}
    with pytest.raises(InvalidOptions, match="actionformer tells 9 classes apart; the annotations have 3"):
        run.prepare(plans.parse(document), folder)


def test_half_precision_outputs_meet_the_loss_in_single_precision() -> None:
    outputs = ((torch.ones(2, dtype=torch.bfloat16),), [torch.ones(2, dtype=torch.bool)], None)
    (wide,), (mask,), rest = detector_job._in_float32(outputs)
    assert wide.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert rest is None
