"""The JSON schema of a manifest, as text; `make schema` writes it to docs/bundle.schema.json."""

import json
from collections.abc import Iterator
from typing import Any

from models.manifest import Manifest


def text() -> str:
    return json.dumps(Manifest.model_json_schema(), indent=1, sort_keys=True) + "\n"


def names() -> list[str]:
    return sorted(set(_keys(Manifest.model_json_schema())))


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield from node["properties"]
        for value in node.values():
            yield from _keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from _keys(value)


if __name__ == "__main__":
    print(text(), end="")
