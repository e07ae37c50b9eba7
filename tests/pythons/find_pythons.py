"""Prints the interpreters of Python 3.12 and 3.13 that really start, one each; none is fine."""

import shutil
import subprocess
import sys
from pathlib import Path


def candidates(version: str) -> list[str]:
    on_path = shutil.which(f"python{version}")
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return [*([on_path] if on_path else []), *map(str, pyenv)]


def starts(python: str, version: str) -> bool:
    asked = [python, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.strip() == version


if __name__ == "__main__":
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    for wanted in ("3.11", "3.12", "3.13"):
        if wanted != running:
            print(*[python for python in candidates(wanted) if starts(python, wanted)][:1])
