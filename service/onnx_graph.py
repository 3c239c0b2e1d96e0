"""A quantized network as an ONNX graph: the reference backend's step, in the same order of operations.

So a runtime that computes float32 operations one by one by IEEE 754, as onnxruntime does on a CPU, gives the same bits. The kernels
are stored as int8, and multiplied as floats that hold every integer sum exactly (`quantized.Kernel.floats`).
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

from service.generation.quantized import Kernel, QuantizedNetwork, quantize
from service.generation.reference import EXP
from trainer.artifact import Tensors, VersionConfig

OPSET, IR_VERSION = 17, 8  # of 2022, so that older runtimes read the file too
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}
LEAST_POWER, POWERS = -126, 254  # float32 has normal powers of two from 2^-126 to 2^127

Operand = Union["Value", float]


def onnx_bytes(config: VersionConfig, tensors: Tensors) -> bytes:
    """The file's content. Its metadata has the model's name and version, and its vocabulary as a JSON list."""
    network = quantize(config, tensors)
    graph = Graph()
    _add_step(graph, network)
    states: list[str | int | None] = ["rows", *network.state_shape]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            config.name,
            inputs=[
                helper.make_tensor_value_info("characters", TensorProto.INT64, ["rows"]),
                helper.make_tensor_value_info("states", TensorProto.FLOAT, states),
            ],
            outputs=[
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", network.vocabulary]),
                helper.make_tensor_value_info("next_states", TensorProto.FLOAT, states),
            ],
            initializer=graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="folio",
    )
    helper.set_model_props(
        model, {"name": config.name, "version": str(config.version), "vocabulary": json.dumps(config.vocabulary)}
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class Graph:
    """Nodes and constants. Names are counted."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._numbers: Iterator[int] = count()

    def constant(self, value: NDArray[Any]) -> "Value":
        name = f"constant_{next(self._numbers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return Value(self, name)

    def value(self, operand: Operand) -> "Value":
        return operand if isinstance(operand, Value) else self.constant(np.array(operand, np.float32))

    def apply(self, operator: str, *operands: Operand, output: str = "", **attributes: Any) -> "Value":
        """Adds an operator with one output, which gets the name `output`."""
        (one,) = self.apply_many(operator, *operands, names=[output or f"{operator.lower()}_{next(self._numbers)}"], **attributes)
        return one

    def split(self, operand: "Value", parts: int) -> list["Value"]:
        """Splits along the second axis."""
        return self.apply_many("Split", operand, names=[f"part_{next(self._numbers)}" for _ in range(parts)], axis=1)

    def apply_many(self, operator: str, *operands: Operand, names: list[str], **attributes: Any) -> list["Value"]:
        inputs = [self.value(operand).name for operand in operands]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return [Value(self, name) for name in names]


class Value:
    """A tensor of a graph. Arithmetic adds nodes, so that formulas read as in the reference."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Operand) -> "Value":
        return self.graph.apply("Add", self, other)

    def __sub__(self, other: Operand) -> "Value":
        return self.graph.apply("Sub", self, other)

    def __rsub__(self, other: float) -> "Value":
        return self.graph.apply("Sub", other, self)

    def __mul__(self, other: Operand) -> "Value":
        return self.graph.apply("Mul", self, other)

    def __truediv__(self, other: Operand) -> "Value":
        return self.graph.apply("Div", self, other)

    def __neg__(self) -> "Value":
        return self.graph.apply("Neg", self)

    def clip(self, least: float, most: float) -> "Value":
        return self.graph.apply("Clip", self, least, most)

    def round(self) -> "Value":
        return self.graph.apply("Round", self)

    def cast(self, to: int) -> "Value":
        return self.graph.apply("Cast", self, to=to)


def _add_step(graph: Graph, network: QuantizedNetwork) -> None:
    """`reference.step` for rows that are not paused."""
    axis = graph.constant(np.array([1], np.int64))
    before = [graph.apply("Squeeze", vector, axis) for vector in graph.split(Value(graph, "states"), network.state_shape[0])]
    after, below = list[Value](), None
    table = graph.constant(network.input_product(np.arange(network.vocabulary)))
    for layer in network.layers:
        x = _product(below, layer.input) if below else graph.apply("Gather", table, Value(graph, "characters"))
        own = before[len(after) :]
        a = _product(own[0], layer.recurrent)
        after += [_gru(x, a, own[0])] if network.cell == "gru" else _lstm(x, a, own[1])
        below = after[-1] if network.cell == "gru" else after[-2]
    if below:
        graph.apply("Identity", _product(below, network.output), output="logits")
    graph.apply("Concat", *(graph.apply("Unsqueeze", vector, axis) for vector in after), output="next_states", axis=1)


def _product(h: Value, kernel: Kernel) -> Value:
    """`reference.product`."""
    floats = TYPES[kernel.floats.dtype]
    weights = h.graph.constant(kernel.weights).cast(floats)
    sums = h.graph.apply("MatMul", (h * 127).round().cast(floats), weights).cast(TensorProto.FLOAT)
    return sums * h.graph.constant(kernel.scale) + h.graph.constant(kernel.bias)


def _exp(x: Value) -> Value:
    """`reference.exp`. Instead of adding n to the exponent's bits, it multiplies by 2^n, which is exact."""
    graph, x = x.graph, x.clip(-87, 88)
    n = (x * 1.44269504).round()
    r = x - n * 0.693359375
    r = r - n * -2.12194440e-4
    p = graph.value(float(EXP[0]))
    for c in EXP[1:]:
        p = p * r + float(c)
    p = p * (r * r) + r + 1
    powers = graph.constant(np.ldexp(np.float32(1), np.arange(LEAST_POWER, LEAST_POWER + POWERS)).astype(np.float32))
    return p * graph.apply("Gather", powers, (n - LEAST_POWER).cast(TensorProto.INT64))


def _exp_below_40(x: Value) -> Value:
    return _exp(x.graph.apply("Min", x, 40))


def _gru(x: Value, a: Value, h: Value) -> Value:
    """`reference.gru`."""
    (xz, xr, xh), (az, ar, ah) = x.graph.split(x, 3), a.graph.split(a, 3)
    ez, er = _exp_below_40(-(az + xz)), _exp(-(ar + xr))
    y = xh + ah / (er + 1)
    et = _exp_below_40(y * -2)
    t = et + 1
    return (ez * (1 - et) + h * t) / ((ez + 1) * t)


def _lstm(x: Value, a: Value, c: Value) -> list[Value]:
    """`reference.lstm`."""
    i, f, g, o = x.graph.split(a + x, 4)
    ei, ef, eg = _exp_below_40(-i), _exp_below_40(-f), _exp_below_40(g * -2)
    c = c / (ef + 1) + (1 - eg) / ((ei + 1) * (eg + 1))
    eo, ec = _exp_below_40(-o), _exp_below_40(c * -2)
    return [(1 - ec) / ((eo + 1) * (ec + 1)), c]
