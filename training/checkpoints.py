"""Named tensors and a few facts in, one safetensors file out, whole or not at all; and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from service.errors import InvalidOptions, first_line

FACTS = "facts"  # the key of the file's metadata, whose values are text: ours is JSON


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """After a crash at any moment the file holds either what it held before or all of this."""
    from safetensors.torch import save_file  # noqa: PLC0415

    # A clone of each, since tensors that share memory cannot be told apart in the file.
    content = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    temporary = path.with_name(f".{path.name}.partial")
    save_file(content, temporary, {FACTS: json.dumps(facts, allow_nan=False)})
    _to_disk(temporary)
    temporary.replace(path)
    _to_disk(path.parent)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(FACTS, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (no mapping)
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or first_line(error)}") from None
    except (SafetensorError, ValueError) as error:
        raise InvalidOptions(f"{path}: no checkpoint of ours: {first_line(error)}") from None


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def only(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `under` put there."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
