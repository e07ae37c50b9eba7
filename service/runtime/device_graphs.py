"""Tiny ONNX graphs as bytes: what joins and cuts feature tensors on the device, without a copy to the host.

ONNX Runtime has no array operations of its own in Python, and the package `onnx` is no part of serving; three graphs
are little enough to encode by hand. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

FLOAT, INT64 = 1, 7
OPSET = 13
IR_VERSION = 8

Dims = Sequence[str]


def concat_rows(count: int) -> bytes:
    """part_0 … part_{count-1}, each (n_i, C) → rows (Σ n_i, C)."""
    names = [f"part_{index}" for index in range(count)]
    node = _node("Concat", names, "rows", _int_attribute("axis", 0))
    inputs = [_value(name, FLOAT, [f"n{index}", "C"]) for index, name in enumerate(names)]
    return _model([node], inputs, [_value("rows", FLOAT, ["T", "C"])])


def concat_columns(count: int) -> bytes:
    """part_0 …, each (T, c_i) → rows (T, Σ c_i)."""
    names = [f"part_{index}" for index in range(count)]
    node = _node("Concat", names, "rows", _int_attribute("axis", 1))
    inputs = [_value(name, FLOAT, ["T", f"c{index}"]) for index, name in enumerate(names)]
    return _model([node], inputs, [_value("rows", FLOAT, ["T", "C"])])


def gather_windows() -> bytes:
    """rows (T, C), two row numbers and two weights for each place (B, L) → features (B, C, L)."""
    taken = [
        _node("Gather", ["rows", f"index_{side}"], f"row_{side}", _int_attribute("axis", 0)) for side in ("low", "high")
    ]
    weighted = [_node("Mul", [f"row_{side}", f"weight_{side}"], f"part_{side}") for side in ("low", "high")]
    nodes = [
        *taken,
        *weighted,
        _node("Add", ["part_low", "part_high"], "sum"),
        _node("Transpose", ["sum"], "features", _ints_attribute("perm", [0, 2, 1])),
    ]
    places = [_value(f"index_{side}", INT64, ["B", "L"]) for side in ("low", "high")]
    weights = [_value(f"weight_{side}", FLOAT, ["B", "L", "one"]) for side in ("low", "high")]
    inputs = [_value("rows", FLOAT, ["T", "C"]), *places, *weights]
    return _model(nodes, inputs, [_value("features", FLOAT, ["B", "C", "L"])])


def identity() -> bytes:
    """x (n,) → y (n,): the smallest graph there is, to find out whether a device works."""
    return _model([_node("Identity", ["x"], "y")], [_value("x", FLOAT, ["n"])], [_value("y", FLOAT, ["n"])])


def _model(nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"tal"),
            *(_field(11, value) for value in inputs),
            *(_field(12, value) for value in outputs),
        ]
    )
    return _number(1, IR_VERSION) + _field(7, graph) + _field(8, _number(2, OPSET))


def _node(operator: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs)
    return (
        names
        + _field(2, output.encode())
        + _field(3, output.encode())
        + _field(4, operator.encode())
        + b"".join(_field(5, attribute) for attribute in attributes)
    )


def _int_attribute(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _number(3, value) + _number(20, 2)


def _ints_attribute(name: str, values: Sequence[int]) -> bytes:
    return _field(1, name.encode()) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _value(name: str, dtype: int, dims: Dims) -> bytes:
    shape = b"".join(_field(1, _number(1, 1) if dim == "one" else _field(2, dim.encode())) for dim in dims)
    tensor = _number(1, dtype) + _field(2, shape)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
