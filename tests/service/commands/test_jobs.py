"""`tal jobs` and `tal detect --server` as a user runs them, against a scripted service."""

from __future__ import annotations

import json
from pathlib import Path

from tests.service.test_cli import tal
from tests.service.test_client import detecting, job
from tests.support.fake_service import Asked, serving


def test_detect_uploads_and_prints_what_the_service_found_in_the_order_of_the_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in files:
        path.write_bytes(b"video")
    with serving(lambda asked: detecting(asked, state="succeeded")) as fake:
        done = tal(tmp_path, "detect", *files, tmp_path / "nowhere.mp4", "-f", "jsonl", TAL_SERVER=fake.url)
    assert [json.loads(line)["video"]["name"] for line in done.stdout.splitlines()] == ["a.mp4", "b.mp4"]
    assert done.returncode == 1
    assert "[video_not_found]" in done.stderr
    assert done.stderr.splitlines()[-1] == "2 of 3 videos done, 1 failed"


def test_a_label_or_model_that_the_service_lacks_is_told_before_anything_is_uploaded(tmp_path: Path) -> None:
    served = {"models": [{"name": "m", "default": True, "labels": ["bow", "clap"]}]}
    with serving(lambda asked: asked.answer(200, served)) as fake:
        label = tal(tmp_path, "detect", tmp_path / "a.mp4", "--labels", "wave", TAL_SERVER=fake.url)
        model = tal(tmp_path, "detect", tmp_path / "a.mp4", "--labels", "bow", "-b", "n", TAL_SERVER=fake.url)
    assert label.returncode == model.returncode == 2
    assert "wave" in label.stderr
    assert "[invalid_options]" in label.stderr
    assert "there are: m [model_not_found]" in model.stderr


def test_jobs_are_listed_and_watched(tmp_path: Path) -> None:
    with serving(lambda asked: asked.answer(200, {"jobs": [job()], "next_cursor": None})) as fake:
        listed = tal(tmp_path, "jobs", "list", "--server", fake.url)
        fake.script = lambda asked: detecting(asked, state="canceled")
        watched = tal(tmp_path, "jobs", "watch", "j1", TAL_SERVER=fake.url)
    assert listed.stdout.split()[:2] == ["j1", "queued"]
    assert watched.returncode == 1
    assert watched.stdout.split()[:2] == ["j1", "canceled"]


def test_an_unknown_job_is_one_line_and_status_two(tmp_path: Path) -> None:
    with serving(lambda asked: asked.problem(404, "job_not_found", "no job j1")) as fake:
        done = tal(tmp_path, "jobs", "show", "j1", "--server", fake.url)
    assert (done.returncode, done.stderr) == (2, "error: no job j1 [job_not_found]\n")


def test_a_job_that_is_not_there_does_not_stop_those_after_it(tmp_path: Path) -> None:
    def script(asked: Asked) -> None:
        if "gone" in asked.path:
            asked.problem(404, "job_not_found", "no job gone")
        else:
            asked.answer(202, job("canceled"))

    with serving(script) as fake:
        done = tal(tmp_path, "jobs", "cancel", "gone", "j1", "--server", fake.url)
    assert (done.returncode, done.stderr) == (1, "gone: no job gone [job_not_found]\n")
    assert done.stdout.split()[:2] == ["j1", "canceled"]
