"""Prints the API's OpenAPI document; `make schema` calls it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from service import configured
from service.api.app import create_app
from service.settings import Settings


def text() -> str:
    with tempfile.TemporaryDirectory() as folder:
        config = Settings(home=Path(folder))
        held = configured.open_backends(config)
        try:
            return json.dumps(create_app(config, held).openapi(), indent=1, ensure_ascii=False) + "\n"
        finally:
            held.close()


if __name__ == "__main__":
    sys.stdout.write(text())
