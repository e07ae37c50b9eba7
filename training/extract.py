"""Videos and a bundle in; a folder of feature files, made by several worker processes, out.

A run that was killed, at whatever moment, is continued by the same command and gives the files of an uninterrupted one.
Workers end with their parent, however it ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models import bundle as bundles
from models.bundle import Bundle, BundleError
from models.manifest import Manifest
from service.errors import InvalidBundle, InvalidOptions
from training import feature_files
from training.extraction_crew import (
    Crew,
    ExtractionPlan,
    Failure,
    Progress,
    Report,
    Task,
    channels_of,
    extract_video,
    size_bytes,
)
from training.feature_files import SETTINGS_FILE
from training.feature_settings import FeatureSettings
from training.run_folder import sole_writer

__all__ = [
    "Extracted",
    "ExtractionPlan",
    "Failure",
    "Progress",
    "by_name",
    "channels_of",
    "check_workers",
    "extract",
    "extract_video",
    "find_videos",
]

FAILED_FILE = "failed.json"
VIDEO_ENDINGS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"}
)


@dataclass(frozen=True)
class Extracted:
    """Names of the videos whose features were made, those that had them already, and the failures."""

    made: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[Failure, ...]


def extract(
    videos: Sequence[Path],
    plan: ExtractionPlan,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_failure: Callable[[Failure], None] | None = None,
) -> Extracted:
    """Features of every video as `<name>.npz` in the plan's folder; a bad video does not stop the others."""
    _check_plan(plan)
    tasks = _tasks(videos, plan.out)
    settings = _wanted_settings(plan)
    with sole_writer(plan.out, "writing features"):
        feature_files.remove_partials(plan.out)
        done = set() if plan.force else _done(tasks, plan.out, settings)
        waiting = [task for task in tasks if task not in done]
        failures: list[Failure] = []
        report = Report(lambda known: _settle(plan, known), _keep(failures, plan.out, on_failure), on_progress)
        made = Crew(plan, settings, report, waiting).run() if waiting else set()
        _write_failures(plan.out, failures)
    return Extracted(
        made=tuple(task.target.stem for task in tasks if task in made),
        skipped=tuple(task.target.stem for task in tasks if task in done),
        failed=tuple(failures),
    )


def find_videos(sources: Sequence[Path]) -> list[Path]:
    """Files as they are named, and every video below a folder, in the order of their paths."""
    found: list[Path] = []
    wrong: list[str] = []
    for source in sources:
        inside = _videos_below(source) if source.is_dir() else [source] if source.is_file() else []
        if not inside:
            wrong.append(f"{source} {'holds no video' if source.is_dir() else 'is neither a file nor a folder'}")
        found += inside
    if wrong or not found:
        endings = " ".join(sorted(VIDEO_ENDINGS))
        raise InvalidOptions("; ".join(wrong or ["no video is named"]) + f"; in folders these count: {endings}")
    return list(dict.fromkeys(found))


def _videos_below(folder: Path) -> list[Path]:
    """Hidden files and folders are nobody's videos."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def by_name(videos: Sequence[Path]) -> dict[str, Path]:
    """By what their files are to be called."""
    found: dict[str, list[Path]] = {}
    for path in videos:
        found.setdefault(path.stem, []).append(path)
    clashes = [f"{name!r} ({', '.join(map(str, paths))})" for name, paths in found.items() if len(paths) > 1]
    if clashes:
        raise InvalidOptions(f"several videos would write the same file: {'; '.join(clashes)}; rename them")
    return {name: paths[0] for name, paths in found.items()}


def check_workers(workers: int) -> list[str]:
    return [] if 1 <= workers <= 256 else [f"workers is {workers}; accepted are 1 to 256"]


def _check_plan(plan: ExtractionPlan) -> None:
    wrong = check_workers(plan.workers)
    if plan.dtype not in ("float32", "float16"):
        wrong.append(f"dtype is {plan.dtype!r}; accepted are 'float32' and 'float16'")
    if plan.out.exists() and not plan.out.is_dir():
        wrong.append(f"{plan.out} is no folder")
    if wrong:
        raise InvalidOptions("; ".join(wrong))


def _tasks(videos: Sequence[Path], out: Path) -> list[Task]:
    return [Task(path, out / f"{name}.npz") for name, path in by_name(videos).items()]


def _wanted_settings(plan: ExtractionPlan) -> FeatureSettings:
    bundle = _read_bundle(plan.bundle)
    _check_outputs(bundle.manifest, plan.with_scores)
    return FeatureSettings.from_manifest(bundle, dtype=plan.dtype, with_scores=plan.with_scores)


def _read_bundle(folder: Path) -> Bundle:
    try:
        return bundles.read(folder)
    except BundleError as error:
        raise InvalidBundle(str(error)) from error


def _check_outputs(manifest: Manifest, with_scores: bool) -> None:
    wanted = ("features", "scores") if with_scores else ("features",)
    lacking = [
        f"stream {stream.name!r} names no {what} output"
        for stream in manifest.streams
        for what in wanted
        if getattr(stream.outputs, what) is None
    ]
    if lacking:
        raise InvalidOptions(f"{manifest.name}: {'; '.join(lacking)}, so there is nothing to extract")


def _done(tasks: Sequence[Task], folder: Path, settings: FeatureSettings) -> set[Task]:
    """Tasks whose file loads, was made with these settings, and of a video of this size."""
    if not (folder / SETTINGS_FILE).exists():
        return set()
    known = feature_files.read_settings(folder)
    _refuse_other(folder, known, settings)
    return {task for task in tasks if task.target.exists() and _is_sound(task, known)}


def _is_sound(task: Task, settings: FeatureSettings) -> bool:
    try:
        return feature_files.read(task.target, settings).source_bytes == size_bytes(task.video)
    except InvalidOptions:
        return False


def _refuse_other(folder: Path, known: FeatureSettings, wanted: FeatureSettings) -> None:
    told = feature_files.differences(wanted, known)
    if known.dtype != wanted.dtype:
        told.append(f"dtype {wanted.dtype} given, {known.dtype} expected")
    if known.scores != wanted.scores:
        told.append("class scores stored otherwise")
    if told:
        raise InvalidOptions(
            f"{folder} holds features that were made with other settings (expected is what it holds): "
            f"{'; '.join(told)}; choose another folder, or --force to make all anew"
        )


def _settle(plan: ExtractionPlan, settings: FeatureSettings) -> None:
    """The folder's settings, once a worker told how wide the features are."""
    path = plan.out / SETTINGS_FILE
    if path.exists() and not plan.force:
        _refuse_other(plan.out, feature_files.read_settings(plan.out), settings)
    else:
        feature_files.write_settings(plan.out, settings)


def _keep(
    failures: list[Failure], folder: Path, on_failure: Callable[[Failure], None] | None
) -> Callable[[Failure], None]:
    """Writes failures down at once, so that a run that is killed leaves word, too."""

    def keep(failure: Failure) -> None:
        failures.append(failure)
        _write_failures(folder, failures)
        if on_failure:
            on_failure(failure)

    return keep


def _write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    path = folder / FAILED_FILE
    if not failures:
        path.unlink(missing_ok=True)
        return
    told = {str(failure.video): {"code": failure.code, "error": failure.error} for failure in failures}
    text = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    feature_files.write_atomically(path, text.encode())
