"""The README's commands run, in order, as a newcomer would type them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support import graphs, videos

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "THIRD_PARTY.md")
]


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def recipe() -> str:
    """The example in docs/export.md, which the README refers to."""
    found = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_commands_of_the_readme_run_in_order(tmp_path: Path) -> None:
    (tmp_path / "classifier.onnx").write_bytes(graphs.brightness_scores("NCTHW", dtype="float32"))
    (tmp_path / "labels.txt").write_text("bright\ndark\n")
    videos.write(tmp_path / "video.mp4", videos.flashes((2, 4)), duration_s=6)
    (tmp_path / "recipe.json").write_text(recipe())
    assert len(commands()) >= 8
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "tal"
        done = subprocess.run(
            [sys.executable, "-c", "from service.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, "TAL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if "json" in arguments:
            assert '"label": "bright"' in done.stdout


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*DOCUMENTS, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_make_target_that_documents_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"`?make ([a-z-]+)", document.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name} names make {target}"
