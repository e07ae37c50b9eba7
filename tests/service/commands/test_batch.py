"""`tal batch` against a scripted service, and once for real on this machine: nothing is done twice, all is in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service import formats
from service.cli import app
from service.client import Ask, StoredVideo, VideoUrl
from service.commands import batch_run
from service.commands.batch_items import read_items
from service.commands.batch_journal import Journal, Places
from service.errors import InvalidOptions
from service.jobs.local_store import LocalStore
from service.localization import DetectOptions
from tests.service.pipeline import video_samples
from tests.service.test_cli import environment, tal
from tests.service.test_client import ANSWER, VIDEO
from tests.support import bundles as tiny
from tests.support.fake_service import Asked, FakeService, serving

MODELS = {"models": [{"name": "m", "default": True, "labels": ["bow", "clap, twice", "wave"]}]}
CORRUPT = {"code": "corrupt_video", "message": "nothing decodes", "retryable": False}
CRASHED = {"code": "worker_crashed", "message": "it died", "retryable": True}


class Scripted:
    """A service whose jobs end at once, by the names of their videos; the same key gives the same job."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}  # names by key
        self.submitted: list[str] = []
        self.queries: list[str] = []
        self.failures: dict[str, dict[str, Any]] = {}
        self.first: Callable[[Asked, str], bool] = lambda asked, name: False

    def __call__(self, asked: Asked) -> None:
        body = asked.read()
        if asked.path == "/v1/models":
            asked.answer(200, MODELS)
        elif asked.method == "POST":
            self._submit(asked, body)
        elif asked.path.endswith("/result?format=json"):
            asked.answer(200, {**formats.as_document(ANSWER), "id": asked.path.split("/")[3]})
        elif asked.path.endswith("/events"):
            asked.stream(("1", "state", {"state": "succeeded"}))
        else:
            asked.answer(200, self._job(asked.path.split("/")[3]))

    def _submit(self, asked: Asked, body: bytes) -> None:
        key = asked.headers["idempotency-key"]
        if asked.headers["content-type"] == "application/json":
            name = str(json.loads(body)["video"])
        else:
            name = asked.headers["content-disposition"].split('"')[1]
        if self.first(asked, name):
            return
        self.queries.append(asked.path.partition("?")[2])
        self.submitted.append(name)
        self.jobs[key] = name
        asked.answer(202, self._job(key))

    def _job(self, key: str) -> dict[str, Any]:
        failure = self.failures.get(self.jobs[key])
        state = {"state": "failed", "failure": failure} if failure else {"state": "succeeded"}
        return {"id": key, "model": "m", "video": VIDEO, **state}


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def service(scripted: Scripted) -> Iterator[FakeService]:
    with serving(scripted) as fake:
        yield fake


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "PAUSE_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.mp4", "a.mp4", "more/c.webm", "d.avi"):
        (folder / name).write_bytes(name.encode())
    (folder / "notes.txt").write_text("no video")
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(path: Path) -> list[str]:
    return [line["custom_id"] for line in lines(path)]


def test_output_and_errors_are_in_order_and_the_status_tells_of_failures(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    scripted.failures["b.mp4"] = CORRUPT
    done = run(folder, "--out", tmp_path / "out", "--server", service.url, "--top-k", "3")
    assert done.exit_code == 1
    assert done.stderr == "3 of 4 videos done, 1 failed\n"
    assert ids(tmp_path / "out" / "output.jsonl") == ["a.mp4", "d.avi", "more/c.webm"]
    (error,) = lines(tmp_path / "out" / "errors.jsonl")
    assert error["custom_id"] == "b.mp4"
    assert error["job_id"]
    assert error["error"] == {"code": "corrupt_video", "message": "nothing decodes"}
    first = lines(tmp_path / "out" / "output.jsonl")[0]
    assert first["result"]["id"] == first["job_id"]
    assert scripted.queries == ["top_k=3"] * 4


def test_what_is_done_is_not_done_again_unless_file_or_options_changed(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    scripted.failures["b.mp4"] = CORRUPT
    command = (folder, "--out", tmp_path / "out.jsonl", "--server", service.url)
    run(*command)
    before = (tmp_path / "out.jsonl").read_bytes()
    scripted.submitted.clear()
    assert run(*command).exit_code == 1
    assert scripted.submitted == []
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert ids(tmp_path / "out.errors.jsonl") == ["b.mp4"]
    (folder / "a.mp4").write_bytes(b"another video")
    run(*command)
    assert scripted.submitted == ["a.mp4"]
    scripted.submitted.clear()
    run(*command, "--labels", "bow,wave")
    assert sorted(scripted.submitted) == ["a.mp4", "b.mp4", "c.webm", "d.avi"]


def test_what_may_pass_is_tried_again_under_another_key(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    scripted.failures["a.mp4"] = CRASHED
    command = (folder, "--out", tmp_path / "out", "--server", service.url)
    assert run(*command).exit_code == 1
    scripted.failures.clear()
    scripted.submitted.clear()
    assert run(*command).exit_code == 0
    assert scripted.submitted == ["a.mp4"]
    assert len(scripted.jobs) == 5
    assert ids(tmp_path / "out" / "output.jsonl") == ["a.mp4", "b.mp4", "d.avi", "more/c.webm"]
    assert (tmp_path / "out" / "errors.jsonl").read_text() == ""


def test_a_full_service_is_waited_for(folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService) -> None:
    refusals = iter(range(12))

    def busy(asked: Asked, name: str) -> bool:
        if name == "a.mp4" and next(refusals, None) is not None:
            asked.problem(429, "queue_full", "full", Retry_After="0")
            return True
        return False

    scripted.first = busy
    assert run(folder, "--out", tmp_path / "out", "--server", service.url).exit_code == 0
    assert ids(tmp_path / "out" / "output.jsonl")[0] == "a.mp4"


def test_a_line_that_was_cut_off_is_done_again(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    command = (folder, "--out", tmp_path / "out", "--server", service.url)
    run(*command)
    journal = tmp_path / "out" / "journal.jsonl"
    kept = journal.read_bytes()
    journal.write_bytes(kept[:-10])
    scripted.submitted.clear()
    assert run(*command).exit_code == 0
    assert len(scripted.submitted) == 1
    assert len(lines(journal)) == 4


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(Places.of(tmp_path)), pytest.raises(InvalidOptions, match="in use by another run"):
        Journal(Places.of(tmp_path))


def test_a_manifest_names_paths_urls_and_objects(tmp_path: Path) -> None:
    ask = Ask("m", DetectOptions(top_k=3))
    objects = [
        {"custom_id": "x", "video": {"id": "ab"}, "options": {"top_k": 5, "labels": ["bow"]}, "priority": "low"},
        {"video": {"path": "sub/b.mp4"}, "model": "n"},
    ]
    manifest = tmp_path / "list.txt"
    manifest.write_text("a.mp4\n\nhttps://example.org/v.mp4\n" + "\n".join(map(json.dumps, objects)))
    plain, url, full, path = read_items(manifest, ask, None)
    assert (plain.custom_id, plain.source) == ("a.mp4", tmp_path / "a.mp4")
    assert (url.custom_id, url.source) == ("https://example.org/v.mp4", VideoUrl("https://example.org/v.mp4"))
    assert (full.custom_id, full.source) == ("x", StoredVideo("ab"))
    assert full.ask.options == DetectOptions(top_k=5, labels=("bow",))
    assert (full.ask.model, full.ask.priority) == ("m", "low")
    assert (path.custom_id, path.source, path.ask.model) == ("5", tmp_path / "sub" / "b.mp4", "n")


@pytest.mark.parametrize(
    "line",
    [
        '{"video": ',
        '{"video": {"id": "a", "url": "b"}}',
        '{"video": {"id": 5}}',
        '{"video": {"id": "a"}, "nonsense": 1}',
        '{"video": {"id": "a"}, "labels": "bow"}',
        '{"video": {"id": "a"}, "top_k": {}}',
        '{"video": {"id": "a"}, "options": []}',
    ],
)
def test_a_line_that_makes_no_sense_is_an_error_of_its_own(line: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{line}\nb.mp4\n")
    bad, sound = read_items(tmp_path / "list", Ask(), None)
    assert (bad.custom_id, sound.error) == ("1", None)
    assert isinstance(bad.error, InvalidOptions)


def test_errors_of_a_manifest_and_missing_files_stand_with_the_others(
    tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "list").write_text('{"nonsense": 1}\nnowhere.mp4\na.mp4\n')
    assert run(tmp_path / "list", "-o", tmp_path / "out", "--server", service.url).exit_code == 1
    errors = lines(tmp_path / "out" / "errors.jsonl")
    assert [(one["custom_id"], one["error"]["code"]) for one in errors] == [
        ("1", "invalid_options"), ("nowhere.mp4", "video_not_found"),
    ]  # fmt: skip
    assert ids(tmp_path / "out" / "output.jsonl") == ["a.mp4"]


def test_what_no_video_could_be_answered_is_refused_before_anything_is_sent(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    for more in (("--labels", "fly"), ("--model", "n"), ("--top-k", "0"), ("--glob", "*.mov"), ("--device", "cpu")):
        refused = run(folder, "-o", tmp_path / "out", "--server", service.url, *more)
        assert refused.exception is not None, more
    (tmp_path / "twice").write_text("a.mp4\na.mp4\n")
    assert "2 times" in str(run(tmp_path / "twice", "-o", tmp_path / "out", "--server", service.url).exception)
    assert scripted.submitted == []


def test_a_label_with_a_comma_stays_whole_and_a_glob_chooses(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    labels = ("--labels", "clap, twice", "--labels", "bow,wave")
    run(folder, "-o", tmp_path / "out", "--server", service.url, "--glob", "a.*", *labels)
    assert scripted.submitted == ["a.mp4"]
    assert scripted.queries == ["labels=clap%2C+twice&labels=bow&labels=wave"]


def test_after_an_interrupt_the_same_command_goes_on(
    folder: Path, tmp_path: Path, scripted: Scripted, service: FakeService
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(asked: Asked, name: str) -> bool:
        if name == "c.webm":
            reached.set()
            go_on.wait(30)
            asked.cut()
            return True
        return False

    scripted.first = hold
    command = ["batch", str(folder), "-o", str(tmp_path / "out"), "--server", service.url]
    process = subprocess.Popen(
        [sys.executable, "-c", "from service.cli import main; main()", *command],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reached.wait(60)
    journal = tmp_path / "out" / "journal.jsonl"
    while len(lines(journal)) < 3:
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    go_on.set()
    assert (process.returncode, said) == (130, "interrupted; the same command goes on from here\n")
    scripted.first = lambda asked, name: False
    scripted.submitted.clear()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert scripted.submitted == ["c.webm"]


@pytest.mark.slow
def test_without_a_server_one_starts_here_and_ends_with_the_run(tmp_path: Path) -> None:
    tiny.classifier(tmp_path / "home" / "models" / "tiny")
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        sample = video_samples.Sample(video_samples.steady(24 + number))
        video_samples.write(folder / f"{number}.mp4", sample)
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    # Another service's store and keys are none of its business.
    store = LocalStore(tmp_path / "shared")
    kept = store.put("video", b"of somebody else")
    os.utime(store.path("video", kept.key), (0, 0))
    tal(tmp_path / "home", "keys", "create", "somebody")
    settings = {"TAL_DEVICE": "cpu", "TAL_THREADS": "1", "TAL_MIN_FREE_DISK_MIB": "0", "TAL_API_KEY": "tal_of_another"}
    settings |= {"TAL_STORE": str(tmp_path / "shared")}
    done = tal(tmp_path / "home", "batch", folder, "-o", tmp_path / "out", "--model", "tiny", **settings)
    assert (done.returncode, done.stderr) == (1, "3 of 4 videos done, 1 failed\n")
    output = lines(tmp_path / "out" / "output.jsonl")
    assert [(one["custom_id"], one["result"]["model"]["name"]) for one in output] == [
        (f"{number}.mp4", "brightness") for number in range(3)
    ]
    assert lines(tmp_path / "out" / "errors.jsonl")[0]["error"]["code"] == "unsupported_media"
    assert store.path("video", kept.key).read_bytes() == b"of somebody else"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "errors.jsonl", "journal.jsonl", "output.jsonl",
    ]  # fmt: skip
