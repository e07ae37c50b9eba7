"""What lies beside a classifier's graph, as text, in: its labels, and the signature of a streaming one, out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidOptions


@dataclass(frozen=True)
class StateSignature:
    """A streaming graph's tensors by name: the image, the scores, and the memories that are fed back."""

    image: str
    scores: str
    tensors: tuple[dict[str, Any], ...]


def read_labels(text: str) -> tuple[str, ...]:
    """One label per line, or a JSON list; blank lines at the end do not count."""
    if text.lstrip().startswith("["):
        found = _from_json(text, "labels")
        if not all(isinstance(label, str) for label in found):
            raise InvalidOptions("labels: a JSON label file is a list of strings")
        return tuple(found)
    if text.lstrip().startswith("{"):
        raise InvalidOptions("labels: a JSON label file is a list of strings, in the order of the scores")
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines:
        raise InvalidOptions(f"labels: line {lines.index('') + 1} is empty; one label stands on each line")
    return tuple(lines)


def read_signature(text: str) -> StateSignature:
    """A streaming signature: {"inputs": {key: {"name", "shape", "dtype"}}, "outputs": {key: name}}.

    A key on both sides is a memory; the one input and the one output left over are the image and the scores.
    """
    document = _from_json(text, "signature")
    if not isinstance(document, Mapping) or not all(
        isinstance(document.get(k), Mapping) for k in ("inputs", "outputs")
    ):
        raise InvalidOptions("signature: a JSON object with the objects inputs and outputs is needed")
    inputs, outputs = document["inputs"], document["outputs"]
    for key, tensor in inputs.items():
        _check_signature_input(key, tensor)
    for key, name in outputs.items():
        if not isinstance(name, str):
            raise InvalidOptions(f"signature: output {key!r} is {name!r}; the name of a tensor is needed")
    free_inputs, free_outputs = set(inputs) - set(outputs), set(outputs) - set(inputs)
    if len(free_inputs) != 1 or len(free_outputs) != 1:
        raise InvalidOptions(
            f"signature: one input and one output without a partner are needed (image, scores); "
            f"found inputs {sorted(free_inputs)} and outputs {sorted(free_outputs)}"
        )
    tensors = tuple(
        {
            "input": inputs[key]["name"],
            "output": outputs[key],
            "shape": inputs[key]["shape"],
            "dtype": inputs[key].get("dtype", "float32"),
        }
        for key in sorted(set(inputs) & set(outputs))
    )
    return StateSignature(inputs[free_inputs.pop()]["name"], outputs[free_outputs.pop()], tensors)


def _check_signature_input(key: str, tensor: Any) -> None:
    sound = (
        isinstance(tensor, Mapping)
        and isinstance(tensor.get("name"), str)
        and isinstance(tensor.get("shape"), list)
        and all(type(side) is int and side > 0 for side in tensor["shape"])
        and tensor.get("dtype", "float32") in ("float32", "int32", "int64", "uint8")
    )
    if not sound:
        raise InvalidOptions(
            f"signature: input {key!r} is {tensor!r}; an object with name, shape (whole numbers) and dtype is needed"
        )


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidOptions(f"{what}: not JSON: {error}") from None
