"""Examples and batches of a detector that learns from labels of whole videos; and that it finds when actions happen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import InvalidOptions
from service.pipeline.features import FeatureSequence
from service.pipeline.snippets import SnippetGrid
from tests.training import footage
from training import eager, loop, run, samples
from training import plan as plans
from training.detector_job import Batch
from training.video_label_job import VideoLabelJob, phases

WIDTHS = {"shared_layers": [[12, 1]], "branch_layers": [[8, 3]], "attention_layers": [[8, 1]]}
STILL = (2.0, 3.5)  # seconds of every video in which nothing moves


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footage") / "root"
    footage.write(root, videos=6)
    (root / "motion").mkdir()
    times_s = np.arange(8 * 25) / 25
    still = (times_s >= STILL[0]) & (times_s < STILL[1])
    for number in range(6):
        intensity = np.where(still, 0.0, 1.0 + times_s) if number != 5 else np.ones(len(times_s))
        np.savez(root / "motion" / f"video_{number}.npz", intensity=intensity, frame_times_s=times_s)
    return root


def document(
    static: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    detector: Mapping[str, Any] | None = None,
    **training: Any,
) -> dict[str, Any]:
    known = footage.plan(**training)
    return {
        **known,
        "features": {**known["features"], **(features or {})},
        "detector": {"network": "cmcs", "preset": "compact", "options": WIDTHS, **(detector or {})},
        "loss": {},
        "training": {**known["training"], "batch_size": 4, "ema": None, "optimiser": "adam", **training},
        **({"static": {"folder": "motion", "least_s": 1.0, **static}} if static is not None else {}),
    }


def prepared(folder: Path, **changes: Any) -> run.Prepared:
    return run.prepare(plans.parse(document(**changes)), folder)


def job_of(folder: Path, **changes: Any) -> VideoLabelJob:
    made = prepared(folder, **changes).job
    assert isinstance(made, VideoLabelJob)
    return made


def seen(batch: Batch) -> list[tuple[np.ndarray, int, float]]:
    """Rows (T, C), label and weight of each video."""
    return [
        (features[:, mask].T.numpy(), int(target.labels), target.weight)
        for features, mask, target in zip(batch.features, batch.mask, batch.targets, strict=True)
    ]


def test_a_video_is_shown_once_for_each_of_its_labels_with_a_share_of_its_weight(folder: Path) -> None:
    job = job_of(folder, batch_size=3)
    assert job.steps_per_epoch == 4  # six videos of two labels
    shown = [one for step in range(4) for one in seen(job.batch(step))]
    assert [weight for _, _, weight in shown] == [0.5] * 12
    pairs = set()
    for rows, label, _ in shown:
        video = next(number for number in range(6) if np.array_equal(footage.values(number), rows))
        pairs.add((video, label))
    assert pairs == {(n, footage.LABELS.index(action["label"])) for n in range(6) for action in footage.actions(n)}


def test_a_batch_depends_on_seed_and_step_alone_and_reaches_into_the_next_pass(folder: Path) -> None:
    one, two = job_of(folder, batch_size=5, cache_mib=0), job_of(folder, batch_size=5)
    ahead = [one.batch(step) for step in range(6)]
    for step in (5, 0, 3):
        assert torch.equal(two.batch(step).features, ahead[step].features)
    shown = [one for batch in ahead for one in seen(batch)]
    first_pass = [(rows.tobytes(), label) for rows, label, _ in shown[:12]]
    assert len(set(first_pass)) == 12
    assert sorted(first_pass) == sorted((rows.tobytes(), label) for rows, label, _ in shown[12:24])


def test_an_epoch_may_be_a_number_of_steps(folder: Path) -> None:
    assert job_of(folder, epoch_steps=7).steps_per_epoch == 7


def test_no_time_of_an_action_is_looked_at(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    footage.write(moved, videos=6)
    text = (moved / "annotations.json").read_text()
    (moved / "annotations.json").write_text(text.replace('"segment": [', '"segment": [0.125, 7.5], "was": ['))
    one, other = job_of(folder).batch(0), job_of(moved).batch(0)
    assert torch.equal(one.features, other.features)
    assert [target.labels for target in one.targets] == [target.labels for target in other.targets]
    assert all(not target.spans.numel() for target in one.targets)


def test_static_parts_are_videos_of_the_background(folder: Path) -> None:
    job = job_of(folder, static={}, batch_size=17)
    assert job.hard_negatives == 5  # in the sixth video everything moves alike
    negatives = [(rows, weight) for rows, label, weight in seen(job.batch(0)) if label == len(footage.LABELS)]
    assert len(negatives) == 5
    middles_s = (np.arange(footage.STEPS) + 0.5) / footage.FPS
    still = (middles_s >= STILL[0]) & (middles_s < STILL[1])
    expected = {footage.values(number)[still].tobytes() for number in range(5)}
    assert {rows.tobytes() for rows, _ in negatives} == expected
    assert {weight for _, weight in negatives} == {1.0}


def test_videos_with_too_much_stillness_teach_no_background(folder: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"none of 6 videos has still parts .* share \[0\.0, 0\.1\]"):
        job_of(folder, static={"share": [0.0, 0.1]})
    with pytest.raises(InvalidOptions, match="no such class"):
        job_of(folder, static={}, detector={"options": {**WIDTHS, "background": False}})


def test_motion_that_is_missing_is_told_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"video_{number}.npz").write_bytes(b"")
    with pytest.raises(InvalidOptions, match="no feature file for 'video_5'"):
        prepared(folder, static={"folder": str(tmp_path)})


def test_motion_of_one_frame_is_told_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "motion").glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.savez(tmp_path / "video_2.npz", intensity=np.ones(1), frame_times_s=np.zeros(1))
    told = r"video_2: 1 frames of motion cover 0\.0 s"
    with pytest.raises(InvalidOptions, match=told):
        prepared(folder, static={"folder": str(tmp_path)})
    judged = prepared(folder, static={"folder": str(tmp_path), "use": "judging"}).test
    assert judged.silent is not None
    with pytest.raises(InvalidOptions, match=told):
        judged.silent("video_2", judged.load("video_2"))


def test_every_row_takes_part_in_training_where_a_detector_sees_each_fourth(folder: Path) -> None:
    stride = footage.plan()["features"]["stride_frames"]
    job = job_of(folder, features={"step_frames": 4 * stride}, batch_size=12)
    beginnings = set()
    for step in range(8):
        for rows, _, _ in seen(job.batch(step)):
            assert len(rows) == footage.STEPS // 4
            whole = next(v for v in map(footage.values, range(6)) if (v == rows[0]).all(axis=1).any())
            first = int(np.flatnonzero((whole == rows[0]).all(axis=1))[0])
            np.testing.assert_array_equal(rows, whole[first::4])
            beginnings.add(first)
    assert beginnings == {0, 1, 2, 3}
    judged = prepared(folder, features={"step_frames": 4 * stride}).test.load("video_0")
    np.testing.assert_array_equal(judged.values, footage.values(0)[::4])
    with pytest.raises(InvalidOptions, match=r"features\.step_frames is .*; a multiple of the features' stride"):
        prepared(folder, features={"step_frames": 1.5 * stride})


def test_thinned_rows_stand_where_they_stood() -> None:
    grid = SnippetGrid(np.arange(100) / 25, 4.0, 4, 8)
    sequence = FeatureSequence(np.arange(10, dtype=np.float32)[:, None], None, grid, 16)
    for phase in range(3):
        found = samples.thinned(sequence, 3, phase)
        wanted = np.arange(phase, 10, 3)
        np.testing.assert_array_equal(found.values, sequence.values[wanted])
        np.testing.assert_allclose(found.grid.to_seconds(np.arange(len(wanted))), grid.to_seconds(wanted))
    assert samples.thinned(sequence, 1) is sequence
    assert [phases(rows, 4) for rows in (1, 3, 4, 9)] == [1, 3, 4, 4]


def test_labels_of_videos_are_enough_to_find_when_actions_happen(folder: Path, tmp_path: Path) -> None:
    changes = {"epochs": 60, "warmup_epochs": 0, "learning_rate": 1e-2, "validate_every_epochs": 0}
    made = prepared(folder, **changes)
    before = made.job.validate(made.job.network)["average"]
    loop.fit(made.job, plans.parse(document(**changes)).training, tmp_path)
    figures = made.job.validate(made.job.network)
    assert figures["average"] > before + 0.05


def test_static_snippets_can_be_silenced_where_a_run_is_judged(folder: Path) -> None:
    made = prepared(folder, static={"use": "judging"})
    assert isinstance(made.job, VideoLabelJob)
    assert made.job.hard_negatives == 0
    assert made.test.silent is not None
    sequence = made.test.load("video_0")
    silent = made.test.silent("video_0", sequence)
    model = made.subject.loaded(made.subject.network)
    assert model.detector is not None
    hushed = eager.hushed(model, silent).detector
    assert hushed is not None
    values = np.asarray(sequence.values).T[None]
    feeds = {"features": values, "mask": np.ones((1, footage.STEPS), bool)}
    found, plain = hushed.session.run(feeds), model.detector.session.run(feeds)
    assert 8 <= silent.sum() <= 14
    assert not found["activations"][0][silent].any()
    np.testing.assert_array_equal(found["activations"][0][~silent], plain["activations"][0][~silent])
    np.testing.assert_array_equal(found["video_scores"], plain["video_scores"])
    with pytest.raises(InvalidOptions, match="one window holds the video"):
        eager.hushed(model, silent[:-1]).detector.session.run(feeds)  # type: ignore[union-attr]


def test_rules_of_a_preset_can_be_changed_for_one_plan(folder: Path) -> None:
    rules = {"grouping": {"score": "inner", "global_weight": 0.0}}
    made = prepared(folder, detector={"postprocessing": rules})
    found = eager.evaluation_rules(made.subject.loaded(made.subject.network)).grouping
    assert found is not None
    assert (found.score, found.global_weight, found.normalise) == ("inner", 0.0, "minmax")
    with pytest.raises(InvalidOptions, match=r"detector\.postprocessing: .*colour"):
        prepared(folder, detector={"postprocessing": {"grouping": {"colour": "blue"}}})


def test_keys_for_whole_videos_are_refused_for_other_detectors() -> None:
    other = {"network": "actionformer", "preset": "compact", "options": {}}
    with pytest.raises(InvalidOptions, match=r"static, training\.epoch_steps: for detectors that learn from whole"):
        plans.parse(document(static={}, detector=other, epoch_steps=3))
