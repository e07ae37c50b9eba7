"""`tal extract` from the command line: files on disk, what is said, and the exit status."""

from __future__ import annotations

import shutil

import pytest
import typer
from typer.testing import CliRunner

from service.commands.extract import extract
from tests.support import bundles, videos
from training import feature_files

app = typer.Typer()
app.command()(extract)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TAL_HOME", str(tmp_path / "home"))
    (tmp_path / "videos").mkdir()
    videos.write(tmp_path / "videos" / "good.mp4", videos.flashes((0.2, 0.6)), duration_s=1)
    bundles.candidates(tmp_path / "home" / "models" / "bright")
    return tmp_path


def run(folder, *options: str):
    given = [str(folder / "videos"), "--out", str(folder / "out"), "--bundle", "bright", "--device", "cpu", *options]
    return CliRunner().invoke(app, given)


def test_it_makes_features_then_keeps_them(folder):
    first = run(folder, "--dtype", "float16", "--workers", "2")
    assert (first.exit_code, first.stdout) == (0, "")
    assert "1 made, 0 kept, 0 failed" in first.stderr
    settings = feature_files.read_settings(folder / "out")
    assert (settings.bundle_name, settings.dtype) == ("brightness", "float16")
    assert "0 made, 1 kept, 0 failed" in run(folder, "--dtype", "float16").stderr


def test_a_bad_video_is_named_and_the_exit_status_is_1(folder):
    (folder / "videos" / "bad.mp4").write_bytes(b"no video")
    result = run(folder)
    assert result.exit_code == 1
    assert "bad.mp4: " in result.stderr
    assert "[unsupported_media]" in result.stderr
    assert "1 made, 0 kept, 1 failed" in result.stderr
    assert (folder / "out" / "good.npz").exists()


def test_a_folder_of_other_settings_needs_force(folder):
    shutil.copytree(folder / "home" / "models" / "bright", folder / "kept")
    assert run(folder).exit_code == 0
    refused = run(folder, "--dtype", "float16")
    assert "dtype float16 given, float32 expected" in str(refused.exception)
    assert "1 made" in run(folder, "--dtype", "float16", "--force").stderr
