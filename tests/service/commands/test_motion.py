"""`tal motion` from the command line."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from service import cli
from tests.support import videos
from training import static_parts


def test_it_tells_how_much_moves_then_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    videos.write(tmp_path / "videos" / "a.mp4", videos.flashes((0.2, 0.6)), duration_s=1)
    arguments = ["motion", str(tmp_path / "videos"), "--out", str(tmp_path / "motion"), "--fps", "10"]
    told = [CliRunner().invoke(cli.app, arguments) for _ in range(2)]
    assert [one.exit_code for one in told] == [0, 0]
    assert "1 made, 0 kept, 0 failed" in told[0].stderr
    assert "0 made, 1 kept, 0 failed" in told[1].stderr
    found = static_parts.read(tmp_path / "motion", "a")
    assert len(found.intensity) == 10
    assert abs(found.fps - 10) < 1e-6


def test_a_bad_video_does_not_stop_the_others(tmp_path: Path) -> None:
    sources = tmp_path / "videos"
    sources.mkdir()
    (sources / "a.mp4").write_text("nothing")
    videos.write(sources / "b.mp4", videos.flashes((0.2, 0.6)), duration_s=1)
    told = CliRunner().invoke(cli.app, ["motion", str(sources), "--out", str(tmp_path / "motion")])
    assert told.exit_code == 1
    assert f"{sources / 'a.mp4'}: " in told.stderr
    assert "[corrupt_video]" in told.stderr or "[unsupported_" in told.stderr
    assert "1 made, 0 kept, 1 failed" in told.stderr
    assert [path.name for path in (tmp_path / "motion").iterdir()] == ["b.npz"]
