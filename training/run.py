"""A plan in; a run's folder with weights, curves, predictions and figures out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.errors import DeviceUnavailable, InvalidOptions
from service.pipeline.features import FeatureSequence
from training import checkpoints, detector_job, feature_files, loop, run_folder, samples, static_parts, video_label_job
from training.datasets import catalog as datasets
from training.datasets.dataset import Dataset, listed, refusal
from training.detector_job import DetectorJob, Split, Subject, VideoNames
from training.evaluation import video_scores
from training.evaluation.protocols import PROTOCOLS, Protocol, Result
from training.feature_files import FeatureRule, FeatureSettings
from training.loop import Step, TrainingJob
from training.plan import DataPlan, FeaturePlan, Plan
from training.static_parts import Motion
from training.video_label_job import Source, VideoLabelJob

EXACT = 1e-6
LABELS, PREDICTIONS, RESULT = "labels.json", "predictions.json", "result.json"
VIDEO_SCORES = "video_scores.json"  # of a classifier of videos
WRITTEN = (run_folder.PLAN, run_folder.INPUTS, LABELS, PREDICTIONS, RESULT, VIDEO_SCORES, "curve.csv", "validation.csv")


@dataclass(frozen=True)
class Prepared:
    """`test` is what the final figures are of; `inputs` are digests of the data, which a run that goes on must find
    again."""

    subject: Subject
    job: TrainingJob
    test: Split
    protocol: Protocol
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class Data:
    """Annotated videos by subset, of how many channels their features are, how many rows of these there are to each
    that a detector sees, and digests of all that."""

    splits: Mapping[str, Split]
    channels: int
    every: int
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Finished:
    result: Result
    document: Mapping[str, Any]

    def table(self) -> str:
        return self.result.table()


@dataclass(frozen=True)
class Stored:
    """Where the features of the data sets' videos are, and how they were made."""

    source: Path
    how: FeatureSettings | FeatureRule
    durations_s: Mapping[str, float]
    fps: Mapping[str, float]
    every: int = 1

    def load(self, video: str) -> FeatureSequence:
        """The rows that a detector sees."""
        return samples.thinned(self.load_dense(video), self.every)

    def load_dense(self, video: str) -> FeatureSequence:
        duration_s = self.durations_s[video]
        known = None if duration_s != duration_s else duration_s  # noqa: PLR0124  (NaN: the annotations do not say)
        path = feature_files.find(self.source, video)
        return feature_files.load(path, self.how, video=video, duration_s=known, fps=self.fps.get(video))

    def problems(self, videos: Sequence[str]) -> list[str]:
        """Of the videos that are to be loaded, without loading one."""
        told = feature_files.lacking(self.source, videos, self.how.array if isinstance(self.how, FeatureRule) else None)
        unrated = [video for video in videos if video not in self.fps]
        if isinstance(self.how, FeatureRule) and self.how.fps is None and unrated:
            told.append(
                f"the annotations say no frame rate of {listed(unrated)}; features.fps may, or annotations that do"
            )
        return told

    def digest(self, videos: Sequence[str]) -> str:
        """Of how features were made, and of the names and sizes of their files."""
        files = {feature_files.find(self.source, video) for video in videos}
        how = self.how.digest.hex() if isinstance(self.how, FeatureSettings) else asdict(self.how)
        return run_folder.digest(how, sorted((path.name, path.stat().st_size) for path in files))


def run(
    plan: Plan,
    root: Path,
    folder: Path,
    device: str = "auto",
    on_step: Callable[[Step], None] = lambda _: None,
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
    *,
    fresh: bool = False,
) -> Finished:
    """Trains, or goes on training, and judges the final weights. Paths in the plan are looked up from `root`."""
    where = torch.device(choose_device(device))
    prepared = prepare(plan, root)
    with run_folder.sole_writer(folder, "training"):
        if fresh:
            start_afresh(folder)
        run_folder.claim(folder, plan.model_dump(mode="json"), prepared.inputs)
        run_folder.write_json(folder / LABELS, list(prepared.subject.labels))
        done = loop.fit(prepared.job, plan.training, folder, where, on_step, on_validation)
        trained = {
            "best_validation": done.best,
            "steps": done.steps,
            "seconds": round(done.seconds, 3),
            "resumed_at_step": done.first_step,
        }
        if isinstance(prepared.job, VideoLabelJob):
            trained["hard_negatives"] = prepared.job.hard_negatives
        return _judged(plan, prepared, done.weights, folder, where, trained)


def judge_again(plan: Plan, root: Path, weights: Path, folder: Path, device: str = "auto") -> Finished:
    """Nothing is trained: weights that a run left are judged as this plan says, whose network must fit them."""
    prepared = prepare(plan, root)
    with run_folder.sole_writer(folder, "training"):
        return _judged(plan, prepared, weights, folder, torch.device(choose_device(device)))


def prepare(plan: Plan, root: Path) -> Prepared:
    """Reads annotations, the names of all features and the first of them; refuses what cannot be trained or judged
    before the first step."""
    asked = PROTOCOLS[plan.protocol]
    protocol = asked if plan.tious is None else replace(asked, tious=plan.tious)
    data = data_of(plan, root)
    splits, motion = data.splits, _motion(plan, root, data.splits)
    if plan.static is not None and plan.static.use == "judging" and motion is not None:
        silent = video_label_job.silent_rows(motion, plan.static)
        splits = {subset: replace(split, silent=silent) for subset, split in splits.items()}
    train, test = splits[plan.dataset.train], splits[plan.dataset.judged_on]
    labels = detector_job.trained_labels(train.ground_truth, protocol)
    subject = detector_job.subject_of(plan, labels, data.channels)
    subject = replace(subject, names=_names(plan, root, subject.labels, splits))
    validation = splits[plan.dataset.validation] if plan.dataset.validation else None
    if subject.entry.supervision == "segments":
        job: TrainingJob = DetectorJob(subject, train, validation, plan, protocol)
    else:
        taught = motion if plan.static is not None and plan.static.use == "training" else None
        job = VideoLabelJob(subject, Source(train, data.every, taught), validation, plan, protocol)
    return Prepared(subject, job, test, protocol, data.digests)


def start_afresh(folder: Path) -> None:
    """Removes what a run wrote, and nothing else."""
    for name in (*WRITTEN, loop.LAST, loop.BEST, loop.WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    for earlier in folder.glob("step-*.safetensors"):
        earlier.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def choose_device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise DeviceUnavailable(
            "device 'cuda' was asked for, and torch finds no such device; accepted are auto and cpu"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


def _judged(
    plan: Plan, prepared: Prepared, weights: Path, folder: Path, where: torch.device, trained: Mapping[str, Any] = {}
) -> Finished:
    """The weights' predictions and figures, in the folder too, beside how they were `trained`."""
    subject, test = prepared.subject, prepared.test
    tensors, _ = checkpoints.read(weights)
    subject.network.load_state_dict(tensors)
    predictions = subject.predict(subject.network, test)
    run_folder.write_json(folder / PREDICTIONS, predictions)
    result = detector_job.judge(predictions, test, subject.judged_labels, prepared.protocol)
    document = {
        "name": plan.name,
        "judged_on": plan.dataset.judged_on,
        **result.summary(),
        "by_class": result.by_class(),
        **trained,
        "device": where.type,
        "torch": torch.__version__,
        "plan": plan.model_dump(mode="json"),
    }
    run_folder.write_json(folder / RESULT, document)
    return Finished(result, document)


def data_of(plan: DataPlan, root: Path) -> Data:
    """Annotations and features that a plan names; all that is missing is told at once."""
    data = {subset: _read(plan, root, subset) for subset in _subsets(plan)}
    stored = _stored(plan.features, root / plan.features.folder, tuple(data.values()))
    videos = _used_videos(plan, data)
    _check_features(stored, videos)
    splits = {subset: Split(dataset.ground_truth, stored.load, stored.load_dense) for subset, dataset in data.items()}
    return Data(splits, _channels(stored, videos[0]), stored.every, _digests(data, stored, videos))


def _motion(plan: Plan, root: Path, splits: Mapping[str, Split]) -> Callable[[str], Motion] | None:
    """How much moves in a video, where the plan says in which folder that is; refused where that lacks some video."""
    if plan.static is None:
        return None
    folder = root / plan.static.folder
    trained = plan.static.use == "training"
    problems = feature_files.lacking(folder, _trained_videos(plan, splits) if trained else _judged_videos(plan, splits))
    if problems:
        raise refusal(problems, str(folder))
    return partial(static_parts.read, folder)


def _names(plan: Plan, root: Path, labels: tuple[str, ...], splits: Mapping[str, Split]) -> VideoNames | None:
    """Scores of whole videos, where the plan names some; refused where they lack a video that is judged."""
    asked = plan.video_scores
    if asked is None:
        return None
    if labels != (detector_job.ANY_CLASS,):
        raise InvalidOptions(
            f"video_scores name actions of any class; {plan.detector.network} tells {len(labels)} classes apart itself"
        )
    found = video_scores.read(asked.format, root / asked.path)
    lacking = found.lacking(_judged_videos(plan, splits))
    if lacking:
        raise InvalidOptions(f"{root / asked.path}: holds no scores of {listed(lacking)}, which are judged")
    return VideoNames(found, asked.fusion)


def _subsets(plan: DataPlan) -> tuple[str, ...]:
    """Every subset that is used, once."""
    asked = (plan.dataset.train, plan.dataset.validation, plan.dataset.judged_on)
    return tuple(dict.fromkeys(subset for subset in asked if subset is not None))


def _read(plan: DataPlan, root: Path, subset: str) -> Dataset:
    asked = plan.dataset
    return datasets.read(asked.format, root / asked.path, subset, task=asked.task)


def _stored(plan: FeaturePlan, source: Path, data: Sequence[Dataset]) -> Stored:
    durations_s: dict[str, float] = {}
    fps: dict[str, float] = {}
    for dataset in data:
        durations_s |= dataset.ground_truth.duration_s_of
        fps |= dataset.fps
    how = _how_made(plan, source)
    return Stored(source, how, durations_s, fps, _every(plan, how))


def _every(plan: FeaturePlan, how: FeatureSettings | FeatureRule) -> int:
    """How many rows there are to each that a detector sees."""
    if plan.step_frames is None:
        return 1
    stride_frames = how.grid.stride_frames if isinstance(how, FeatureSettings) else how.stride_frames
    every = round(plan.step_frames / stride_frames)
    if every < 1 or abs(every * stride_frames - plan.step_frames) > EXACT:
        raise InvalidOptions(
            f"features.step_frames is {plan.step_frames:g}; a multiple of the features' stride, {stride_frames:g}, is "
            "needed, or null for every row"
        )
    return every


def _how_made(plan: FeaturePlan, source: Path) -> FeatureSettings | FeatureRule:
    """Features that say it themselves are believed; a preset's rule is for those that do not."""
    if feature_files.is_ours(source):
        if plan.own_rule:
            raise InvalidOptions(
                f"{source}: {feature_files.SETTINGS_FILE} says how these features were made, and so does the plan; "
                f"leave {', '.join(plan.own_rule)} out of the plan's features"
            )
        return feature_files.read_settings(source)
    if plan.rule is None:
        raise InvalidOptions(
            f"{source}: holds no {feature_files.SETTINGS_FILE}, as folders of `tal extract` do; for features made "
            "elsewhere the plan must give features.stride_frames, offset_frames and clip_frames"
        )
    return plan.rule


def _used_videos(plan: DataPlan, data: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Those that are trained on, then those that are judged on; without an action a video trains nothing."""
    used = _trained_videos(plan, data)
    if not used:
        raise InvalidOptions(f"no video of the training subset {plan.dataset.train!r} has an action")
    return tuple(dict.fromkeys([*used, *_judged_videos(plan, data)]))


def _trained_videos(plan: DataPlan, data: Mapping[str, Dataset | Split]) -> list[str]:
    train = data[plan.dataset.train].ground_truth
    return [train.videos[index] for index in np.unique(train.video_indices)]


def _judged_videos(plan: DataPlan, data: Mapping[str, Dataset | Split]) -> list[str]:
    judging = [subset for subset in (plan.dataset.validation, plan.dataset.judged_on) if subset is not None]
    return list(dict.fromkeys(video for subset in judging for video in data[subset].ground_truth.videos))


def _check_features(stored: Stored, videos: Sequence[str]) -> None:
    problems = stored.problems(videos)
    if problems:
        raise refusal(problems, str(stored.source))


def _channels(stored: Stored, video: str) -> int:
    values = stored.load(video).values
    if values is None:
        raise InvalidOptions(f"{stored.source}: holds class scores and no features; a detector sees features")
    return int(values.shape[1])


def _digests(data: Mapping[str, Dataset], stored: Stored, videos: Sequence[str]) -> dict[str, str]:
    read = {
        subset: [run_folder.truth_digest(dataset.ground_truth), dict(dataset.fps)] for subset, dataset in data.items()
    }
    return {"annotations": run_folder.digest(read), "features": stored.digest(videos)}
