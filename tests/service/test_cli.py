"""The `tal` command as a user runs it: a real process, real files, and what comes out on which stream."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models import bundle as bundles
from tests.support import bundles as tiny
from tests.support import graphs, videos

FLASHES = ((2.0, 4.0), (6.0, 7.0))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny.classifier(home / "models" / "brightness")
    return home


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.write(tmp_path_factory.mktemp("v") / "flashes.mp4", videos.flashes(*FLASHES), duration_s=8)


def environment(home: Path, **extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAL_")}
    return {**clean, "TAL_HOME": str(home), "PYTHONWARNINGS": "error", **extra}


def tal(home: Path, *arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from service.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(home, **extra), timeout=120
    )


def test_detect_prints_segments_and_nothing_else(home: Path, video: Path) -> None:
    done = tal(home, "detect", video, "--bundle", "brightness", "--format", "json", "--labels", "bright")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    found = sorted((s["start_s"], s["end_s"]) for s in document["segments"])
    assert found == [pytest.approx(interval, abs=1e-3) for interval in FLASHES]
    assert document["model"]["name"] == "brightness"


def test_a_bundle_is_named_by_folder_by_name_or_by_default(home: Path, video: Path) -> None:
    by_folder = tal(home, "detect", video, "-b", home / "models" / "brightness", "-f", "csv")
    by_name = tal(home, "detect", video, "-b", "brightness", "-f", "csv")
    by_default = tal(home, "detect", video, "-f", "csv", TAL_DEFAULT_MODEL="brightness")
    assert by_folder.stdout == by_name.stdout == by_default.stdout != ""


def test_a_bad_file_does_not_stop_the_rest(home: Path, video: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video at all\n" * 100)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    done = tal(home, "detect", text, video, tmp_path / "nowhere.mp4", empty, "-b", "brightness", "-f", "jsonl")
    assert done.returncode == 1
    assert [json.loads(line)["video"]["name"] for line in done.stdout.splitlines()] == ["flashes.mp4"]
    assert re.search(r"text\.mp4: .*\[unsupported_media\]", done.stderr)
    assert re.search(r"nowhere\.mp4: .*\[video_not_found\]", done.stderr)
    assert re.search(r"empty\.mp4: .*\[corrupt_video\]", done.stderr)
    assert done.stderr.splitlines()[-1] == "1 of 4 videos done, 3 failed"
    assert "Traceback" not in done.stderr


def test_every_format_holds_the_same_segments(home: Path, video: Path) -> None:
    counts = {}
    for wanted in ("table", "json", "jsonl", "csv", "activitynet", "vtt", "srt"):
        done = tal(home, "detect", video, "-b", "brightness", "-f", wanted)
        assert done.returncode == 0, done.stderr
        counts[wanted] = {
            "table": lambda text: len(re.findall(r"^ +\d", text, re.MULTILINE)),
            "json": lambda text: len(json.loads(text)["segments"]),
            "jsonl": lambda text: len(json.loads(text)["segments"]),
            "csv": lambda text: len(list(csv.DictReader(io.StringIO(text)))),
            "activitynet": lambda text: len(json.loads(text)["results"]["flashes"]),
            "vtt": lambda text: text.count("-->"),
            "srt": lambda text: text.count("-->"),
        }[wanted](done.stdout)
    assert set(counts.values()) == {5}, counts


def test_options_narrow_the_answer(home: Path, video: Path) -> None:
    def rows(*options: str) -> list[dict[str, str]]:
        done = tal(home, "detect", video, "-b", "brightness", "-f", "csv", *options)
        assert done.returncode == 0, done.stderr
        return list(csv.DictReader(io.StringIO(done.stdout)))

    assert len(rows("--top-k", "2")) == 2
    assert {row["label"] for row in rows("--labels", "dark")} == {"dark"}
    assert {row["label"] for row in rows("--labels", "bright,dark")} == {"bright", "dark"}
    assert all(float(row["score"]) >= 0.95 for row in rows("--min-score", "0.95"))


def test_a_part_is_looked_at_on_the_timeline_of_the_whole(home: Path, video: Path) -> None:
    part = ("--start", "3", "--end", "6.4", "--labels", "bright", "--include", "activations")
    done = tal(home, "detect", video, "-b", "brightness", "-f", "json", *part)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    found = sorted((s["start_s"], s["end_s"]) for s in document["segments"])
    assert found == [pytest.approx(interval, abs=1e-3) for interval in ((3.0, 4.0), (6.0, 6.4))]
    assert document["video"]["duration_s"] == 8
    assert document["activations"]["labels"] == ["bright"]


def test_a_video_too_short_for_the_part_does_not_stop_the_rest(home: Path, video: Path, tmp_path: Path) -> None:
    short = videos.write(tmp_path / "short.mp4", videos.flashes(), duration_s=1)
    done = tal(home, "detect", short, video, "-b", "brightness", "-f", "jsonl", "--start", "3")
    assert done.returncode == 1
    assert [json.loads(line)["video"]["name"] for line in done.stdout.splitlines()] == ["flashes.mp4"]
    assert "short.mp4: start_s is 3, but the video lasts until 1.000 s [invalid_options]" in done.stderr


def test_subtitles_of_several_videos_need_a_folder(home: Path, video: Path, tmp_path: Path) -> None:
    other = videos.write(tmp_path / "other.mkv", videos.flashes((0, 1)), duration_s=2)
    refused = tal(home, "detect", video, other, "-b", "brightness", "-f", "vtt")
    assert (refused.returncode, "name a folder with --output" in refused.stderr) == (2, True)
    done = tal(home, "detect", video, other, "-b", "brightness", "-f", "vtt", "-o", tmp_path / "subtitles")
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "subtitles").iterdir()} == {"flashes.mp4.vtt", "other.mkv.vtt"}


def test_output_goes_to_a_file_when_asked(home: Path, video: Path, tmp_path: Path) -> None:
    done = tal(home, "detect", video, "-b", "brightness", "-f", "json", "-o", tmp_path / "out.json")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text())["segments"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "nothing"], r"model 'nothing' is neither a folder nor installed; installed in .*: brightness"),
        (["-b", "brightness", "--labels", "brigth"], r"label 'brigth' is not one of the model's; near it: bright"),
        (["-b", "brightness", "--min-score", "7"], r"min_score is 7.0; it lies between 0 and 1"),
        (["-b", "brightness", "--top-k", "0"], r"top_k is 0; it is at least 1"),
        (["-b", "brightness", "--format", "xml"], r"'xml' is not one of"),
    ],
)
def test_misuse_is_one_line_and_exit_status_2(home: Path, video: Path, arguments: list[str], message: str) -> None:
    done = tal(home, "detect", video, *arguments, COLUMNS="200", TERM="dumb")
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


def test_cuda_without_a_gpu_is_refused_with_the_reason(home: Path, video: Path) -> None:
    done = tal(home, "detect", video, "-b", "brightness", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "device 'cuda' was asked for" in done.stderr


def test_a_terminal_sees_progress_and_a_pipe_does_not(home: Path, video: Path) -> None:
    controller, terminal = pty.openpty()
    odd = video.with_name("[bold]100%.mp4")
    odd.write_bytes(video.read_bytes())
    command = [sys.executable, "-c", "from service.cli import main; main()"]
    arguments = ["detect", str(odd), "-b", "brightness", "-f", "csv"]
    done = subprocess.run(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=environment(home, TERM="xterm", COLUMNS="100"),
        check=True,
        timeout=120,
    )
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert "[bold]100%.mp4" in shown
    assert "%" in shown
    assert done.stdout.startswith(b"video,start_s,end_s,label,score\n")


def test_models_are_listed_shown_and_verified(home: Path) -> None:
    listed = tal(home, "models", "list")
    assert re.search(r"^brightness +1\.0\.0 +2 labels, activations$", listed.stdout, re.MULTILINE)
    shown = json.loads(tal(home, "models", "show", "brightness").stdout)
    assert (shown["name"], shown["labels"], len(shown["sha256"])) == ("brightness", ["bright", "dark"], 64)
    assert "brightness: sound" in tal(home, "models", "verify", "brightness").stdout


def test_a_damaged_model_fails_verification(tmp_path: Path) -> None:
    tiny.classifier(tmp_path / "models" / "damaged")
    graph = tmp_path / "models" / "damaged" / "features.rgb.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\xff")
    done = tal(tmp_path, "models", "verify", "damaged")
    assert (done.returncode, "changed or damaged" in done.stderr) == (1, True)
    assert tal(tmp_path, "doctor").returncode == 1


def test_an_imported_classifier_is_a_model_at_once(tmp_path: Path, video: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(graphs.brightness_scores("NCTHW", dtype="float32"))
    (tmp_path / "labels.txt").write_text("bright\ndark\n")
    window = ["--fps", "10", "--window", "0.4", "--step", "0.1", "--size", "16"]
    command = ["models", "import", tmp_path / "graph.onnx", "--labels", tmp_path / "labels.txt", "--name", "mine"]
    made = tal(tmp_path, *command, *window)
    assert made.returncode == 0, made.stderr
    assert "2 labels, 4 frames at 10.0 per second every 1 frames, scores: none" in made.stderr
    done = tal(tmp_path, "detect", video, "-b", "mine", "--labels", "bright", "-f", "json")
    found = sorted((s["start_s"], s["end_s"]) for s in json.loads(done.stdout)["segments"])
    assert found == [pytest.approx(interval, abs=0.3) for interval in FLASHES]
    again = tal(tmp_path, *command, *window)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def test_doctor_finds_what_is_installed(home: Path) -> None:
    done = tal(home, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("python", "onnxruntime", "engine", "device", "decoders", "disk", "models"):
        assert re.search(rf"^{what} +\S", done.stdout, re.MULTILINE), what


def test_serving_never_imports_torch(home: Path, video: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import service.cli\n"
        f"sys.argv = ['tal', 'detect', {str(video)!r}, '-b', 'brightness', '-f', 'csv']\n"
        "service.cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(home), check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 6


def test_doctor_says_that_no_redis_answers(home: Path) -> None:
    done = tal(home, "doctor", TAL_REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert re.search(r"^queue +Redis at 127.0.0.1:1 .*refused", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("argument", ["--help", "doctor"])
def test_torch_is_not_imported_where_no_graph_needs_it(home: Path, argument: str) -> None:
    script = (
        "import sys\n"
        "import service.cli\n"
        "early = 'torch' in sys.modules\n"
        f"sys.argv = ['tal', {argument!r}]\n"
        "try: service.cli.main()\n"
        "except SystemExit: pass\n"
        "print('imported:', early, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(home), check=False, timeout=120
    )
    assert done.stdout.endswith("imported: False False\n"), done.stderr


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    pytest.importorskip("torch", exc_type=ImportError)
    from tests.support import torchscripts

    torch_home = tmp_path_factory.mktemp("torch")
    onnx = bundles.read(home / "models" / "brightness")
    torchscripts.twin(onnx, torch_home / "models" / "brightness", {"features.rgb": torchscripts.brightness_scores()})
    return torch_home


def test_a_torch_bundle_runs_only_when_allowed_and_listed(torch_home: Path, home: Path, video: Path) -> None:
    digest = json.loads(tal(torch_home, "models", "show", "brightness").stdout)["sha256"]
    allowed, listed = {"TAL_ALLOW_TORCH_BUNDLES": "1"}, {"TAL_TRUSTED_TORCH_BUNDLES": digest}
    detect = ["detect", video, "-b", "brightness", "-f", "json"]
    advice = f"set TAL_ALLOW_TORCH_BUNDLES=1 and list its digest {digest} in TAL_TRUSTED_TORCH_BUNDLES [invalid_bundle]"
    for extra in (allowed, listed, {**allowed, "TAL_TRUSTED_TORCH_BUNDLES": "0" * 64}):
        refused = tal(torch_home, *detect, **extra)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert advice in refused.stderr
        unsound = tal(torch_home, "models", "verify", "brightness", **extra)
        assert (unsound.returncode, advice in unsound.stderr) == (1, True)
    done = tal(torch_home, *detect, **allowed, **listed)
    assert (done.returncode, done.stderr) == (0, "")
    document, wanted = json.loads(done.stdout), json.loads(tal(home, *detect).stdout)
    assert document["segments"] == wanted["segments"]
    assert document["model"]["provider"] == "TorchScript-CPU"
    verified = tal(torch_home, "models", "verify", "brightness", **allowed, **listed)
    assert (verified.returncode, verified.stdout) == (0, f"brightness: sound, brightness 1.0.0, sha256 {digest}\n")


def test_doctor_tells_which_torch_bundles_may_load(home: Path) -> None:
    assert re.search(r"^torch bundles +refused; TAL_ALLOW_TORCH_BUNDLES", tal(home, "doctor").stdout, re.MULTILINE)
    pytest.importorskip("torch", exc_type=ImportError)
    listed = {"TAL_ALLOW_TORCH_BUNDLES": "1", "TAL_TRUSTED_TORCH_BUNDLES": "0" * 64}
    assert re.search(r"^torch bundles +1 may load$", tal(home, "doctor", **listed).stdout, re.MULTILINE)


def test_videos_of_the_same_name_stay_apart(home: Path, video: Path, tmp_path: Path) -> None:
    twin = tmp_path / video.name
    twin.write_bytes(video.read_bytes())
    done = tal(home, "detect", video, twin, "-b", "brightness", "-f", "csv")
    assert {row["video"] for row in csv.DictReader(io.StringIO(done.stdout))} == {str(video), str(twin)}
    keyed = tal(home, "detect", video, twin, "-b", "brightness", "-f", "activitynet")
    assert len(json.loads(keyed.stdout)["results"]) == 2
    refused = tal(home, "detect", video, twin, "-b", "brightness", "-f", "srt", "-o", tmp_path / "subs")
    assert (refused.returncode, "the same name" in refused.stderr) == (2, True)


def test_the_shape_of_the_output_follows_what_was_asked_not_what_succeeded(
    home: Path, video: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("nothing")
    some = tal(home, "detect", video, bad, "-b", "brightness", "-f", "json")
    assert (some.returncode, len(json.loads(some.stdout))) == (1, 1)
    none = tal(home, "detect", bad, bad, "-b", "brightness", "-f", "json")
    assert (none.returncode, json.loads(none.stdout)) == (1, [])
    header = tal(home, "detect", bad, "-b", "brightness", "-f", "csv")
    assert header.stdout == "video,start_s,end_s,label,score\n"
    subtitles = tal(home, "detect", video, bad, "-b", "brightness", "-f", "vtt", "-o", tmp_path / "subs")
    assert (subtitles.returncode, [path.name for path in (tmp_path / "subs").iterdir()]) == (1, ["flashes.mp4.vtt"])


def test_a_video_that_the_model_cannot_see_does_not_stop_the_rest(home: Path, video: Path, tmp_path: Path) -> None:
    tiny.classifier(tmp_path / "b", streams=[tiny.stream(resize={"mode": "none"}, crop_px=[64, 48])])
    small = videos.write(tmp_path / "small.mp4", videos.flashes((0, 1)), duration_s=1, size_px=(32, 32))
    done = tal(home, "detect", small, video, "-b", tmp_path / "b", "-f", "jsonl")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert "[video_too_small]" in done.stderr


@pytest.mark.parametrize("form", ["json", "csv", "jsonl", "activitynet"])
def test_a_file_keeps_what_it_held_until_there_is_a_result(home: Path, video: Path, tmp_path: Path, form: str) -> None:
    bad, out = tmp_path / "bad.mp4", tmp_path / "out"
    bad.write_text("nothing")
    out.write_text("precious")
    failed = tal(home, "detect", bad, bad, "-b", "brightness", "-f", form, "-o", out)
    assert (failed.returncode, out.read_text()) == (1 if form != "activitynet" else 2, "precious")
    done = tal(home, "detect", bad, video, "-b", "brightness", "-f", form, "-o", out)
    expected = tal(home, "detect", bad, video, "-b", "brightness", "-f", form).stdout
    assert (done.returncode, len(out.read_text().splitlines())) == (1, len(expected.splitlines()))
    assert "precious" not in out.read_text()


def test_a_video_is_not_written_over(home: Path, video: Path, tmp_path: Path) -> None:
    content = video.read_bytes()
    (tmp_path / "link.json").symlink_to(video)
    for target in (video, tmp_path / "link.json"):
        done = tal(home, "detect", video, "-b", "brightness", "-f", "json", "-o", target)
        assert (done.returncode, "which is to be read; name another file" in done.stderr) == (2, True)
    assert video.read_bytes() == content


@pytest.mark.parametrize("target", ["missing/out.json", "."])
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    home: Path, video: Path, tmp_path: Path, target: str
) -> None:
    done = tal(home, "detect", video, "-b", "brightness", "-f", "json", "-o", tmp_path / target)
    assert (done.returncode, "cannot be written" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_full_disk_is_told_in_one_line(home: Path, video: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [
            sys.executable,
            "-c",
            "from service.cli import main; main()",
            "detect",
            str(video),
            "-b",
            "brightness",
        ]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(home), check=False, timeout=60
        )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.parametrize("labels", ["", ","])
def test_labels_that_name_none_are_refused(home: Path, video: Path, labels: str) -> None:
    done = tal(home, "detect", video, "-b", "brightness", "--labels", labels)
    assert (done.returncode, "name none" in done.stderr) == (2, True)


def test_an_installed_model_goes_before_a_folder_of_the_same_name_here(home: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "brightness").mkdir()
    command = [sys.executable, "-c", "from service.cli import main; main()", "detect", str(video), "-b", "brightness"]
    here = environment(home, PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(command, capture_output=True, text=True, env=here, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fps", "0"], "fps is 0.0; a number above 0 is needed"),
        (["--fps", "nan"], "fps is nan"),
        (["--fps", "8", "--window", "inf"], "window_s is inf"),
        (["--fps", "8", "--threshold", "nan"], "threshold is nan"),
        (["--fps", "8", "--mean", "a,b"], "mean 'a,b': numbers separated by commas are needed"),
        (["--fps", "8", "--size", "-1"], "size_px is -1"),
        (["--fps", "8", "--group", "x"], "group 'x': NAME=LABEL,LABEL is needed"),
    ],
)
def test_an_import_that_cannot_work_is_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "graph.onnx").write_bytes(graphs.brightness_scores("NCTHW", dtype="float32"))
    (tmp_path / "labels.txt").write_text("bright\r\ndark\r\n")
    command = ["models", "import", tmp_path / "graph.onnx", "--labels", tmp_path / "labels.txt", "--name", "mine"]
    done = tal(tmp_path, *command, "--size", "16", *options)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr


def test_labels_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(graphs.brightness_scores())
    (tmp_path / "labels.txt").write_bytes("sauté\nfrit\n".encode("latin-1"))
    command = ["models", "import", tmp_path / "graph.onnx", "--labels", tmp_path / "labels.txt", "--name", "mine"]
    done = tal(tmp_path, *command, "--size", "16", "--fps", "8")
    assert (done.returncode, "not UTF-8 text" in done.stderr) == (2, True)


def test_a_home_that_cannot_be_made_is_told(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "graph.onnx").write_bytes(graphs.brightness_scores())
    (tmp_path / "labels.txt").write_text("bright\ndark\n")
    command = ["models", "import", tmp_path / "graph.onnx", "--labels", tmp_path / "labels.txt", "--name", "mine"]
    done = tal(tmp_path / "file", *command, "--size", "16", "--fps", "8")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert tal(tmp_path / "file", "doctor").returncode == 1


@pytest.mark.parametrize(
    ("variable", "value"), [("TAL_DECODE_STALL_S", "inf"), ("TAL_DECODE_MEMORY_MIB", "9" * 20), ("TAL_THREADS", "-1")]
)
def test_a_setting_out_of_bounds_is_told_by_name(home: Path, variable: str, value: str) -> None:
    done = tal(home, "models", "list", **{variable: value})
    assert (done.returncode, f"{variable}: " in done.stderr) == (2, True)


def test_the_version_is_told(home: Path) -> None:
    assert re.fullmatch(r"tal \d+\.\d+\.\d+\n", tal(home, "--version").stdout)


def test_a_refused_request_leaves_an_earlier_answer_alone(home: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("earlier")
    for misuse in (["--min-score", "7"], ["--preset", "evaluation"], ["--labels", "nothing"]):
        done = tal(home, "detect", video, "-b", "brightness", "-f", "json", "-o", tmp_path / "out.json", *misuse)
        assert done.returncode == 2
    assert (tmp_path / "out.json").read_text() == "earlier"


def test_a_reader_that_leaves_early_ends_the_command_quietly(home: Path, video: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.mp4"
    twin.write_bytes(video.read_bytes())
    script = "from service.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "detect", str(video), str(twin), "-b", "brightness", "-f", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaints = process.stderr.read().decode()
        process.wait(60)
    assert "defect" not in complaints
    assert "Traceback" not in complaints


def test_a_termination_cleans_up_as_an_interrupt_does() -> None:
    script = """
import os, signal, sys, time
from service import cli

@cli.app.command("stop-me")
def stop_me() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        print("cleaned up")

sys.argv = ["tal", "stop-me"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned up\n", "")
