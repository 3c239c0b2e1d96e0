"""The decoder on OpenVINO, for CPUs: the whole loop, sampling included, in one graph that advances B slots by K steps.

Built from a published version's tensors, with no TensorFlow in the process. Embedding and input kernel are folded into one
table of vocabulary x gates * units, so a step is a row look-up, one product with the recurrent kernel, the gates, and the
output product. States lie on the host: a few KB a slot, gathered for a call and put back after it.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

# Importing openvino reports to its makers, from a forked process that can hang this one. Without that package it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from service.generation.decoder import STATES, Batch, input_bias, input_table, inverse_temperatures
from trainer.artifact import Architecture, Tensors


class OpenVINODecoder:
    """See `service.generation.decoder.Decoder`."""

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int) -> None:
        self.slots = slots
        self._states = np.zeros((slots, STATES[architecture.cell] * architecture.layers, architecture.units), np.float32)
        model, core = build(architecture, tensors), ov.Core()
        # float32 even where the CPU has bfloat16, whose rounding would make another text of the same seed.
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
        # A graph compiled for the batch it gets is faster than one for any batch; a batch takes the next size up.
        self._requests = {}
        for size in batch_sizes(slots):
            shapes = [[size, *self._states.shape[1:]], [size], [-1, size], [-1, size], [size, 1]]
            model.reshape(dict(zip(model.inputs, shapes, strict=True)))
            self._requests[size] = core.compile_model(model, "CPU", options).create_infer_request()

    def decode(self, batch: Batch) -> NDArray[np.int32]:
        count = len(batch.slots)
        size = next(size for size in self._requests if size >= count)
        states = np.zeros((size, *self._states.shape[1:]), np.float32)
        kept = ~batch.fresh
        states[:count][kept] = self._states[batch.slots[kept]]
        wide, tall = ((0, 0), (0, size - count)), ((0, size - count), (0, 0))
        arguments = [
            states,
            np.pad(batch.inputs, wide[1]),
            np.pad(batch.forced, wide),
            np.pad(batch.uniforms, wide),
            np.pad(inverse_temperatures(batch.temperatures), tall),
        ]
        chosen, after = self._requests[size].infer(arguments, share_inputs=True).values()
        self._states[batch.slots] = after[:count]
        return np.array(chosen[:, :count])


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batch_sizes(slots: int) -> list[int]:
    """1, 2, 4, ... and `slots`."""
    return sorted({2**i for i in range(slots.bit_length()) if 2**i < slots} | {slots})


def build(architecture: Architecture, tensors: Tensors) -> ov.Model:
    """The loop, for any B and K.

    (states [B, states, units], inputs [B], forced and uniforms [K, B], 1 / temperature [B, 1]) -> (chosen [K, B], states).
    """
    count, units = STATES[architecture.cell] * architecture.layers, architecture.units
    outer = [
        op.parameter([-1, count, units], np.float32),
        op.parameter([-1], np.int32),
        op.parameter([-1, -1], np.int32),
        op.parameter([-1, -1], np.float32),
        op.parameter([-1, 1], np.float32),
    ]
    states, inputs, forced, uniforms, temperatures = outer

    inner_states = [op.parameter([-1, units], np.float32) for _ in range(count)]
    character = op.parameter([-1], np.int32)
    step_forced, step_uniform = op.parameter([1, -1], np.int32), op.parameter([1, -1], np.float32)
    inverse_temperature = op.parameter([-1, 1], np.float32)
    after, logits = step(architecture, tensors, character, inner_states)
    sampled = sample(logits, op.squeeze(step_uniform, ints(0)), inverse_temperature)
    given = op.squeeze(step_forced, ints(0))
    chosen = op.select(op.greater_equal(given, op.constant(np.int32(0))), given, sampled)
    results = [op.result(value) for value in (*after, chosen, op.unsqueeze(chosen, ints(0)), op.constant(np.array(True)))]
    body = ov.Model(results, [*inner_states, character, step_forced, step_uniform, inverse_temperature])
    values = [result.input_value(0) for result in results]

    steps = op.squeeze(op.slice(op.shape_of(forced), ints(0), ints(1), ints(1)), ints(0))
    loop = op.loop(steps, op.constant(np.array(True)))
    loop.set_function(body)
    loop.set_special_body_ports([-1, len(results) - 1])
    for i, state in enumerate(inner_states):
        loop.set_merged_input(state, op.gather(states, op.constant(np.int64(i)), op.constant(np.int64(1))).output(0), values[i])
    loop.set_merged_input(character, inputs.output(0), values[count])
    loop.set_sliced_input(step_forced, forced.output(0), 0, 1, 1, -1, 0)
    loop.set_sliced_input(step_uniform, uniforms.output(0), 0, 1, 1, -1, 0)
    loop.set_invariant_input(inverse_temperature, temperatures.output(0))
    finals = [op.unsqueeze(loop.get_iter_value(values[i], -1), ints(1)) for i in range(count)]
    stacked = loop.get_concatenated_slices(values[count + 1], 0, 1, 1, -1, 0)
    return ov.Model([op.result(stacked), op.result(op.concat(finals, 1))], outer)


def step(architecture: Architecture, tensors: Tensors, character: Any, states: Sequence[Any]) -> tuple[list[Any], Any]:
    """(character [B], all layers' states, each [B, units]) -> (states, logits [B, vocabulary])."""
    per_layer = STATES[architecture.cell]
    cell = gru_step if architecture.cell == "gru" else lstm_step
    x, after = op.gather(op.constant(input_table(tensors)), character, op.constant(np.int64(0))), []
    for i in range(architecture.layers):
        bias = tensors[f"rnn.{i}.bias"]
        if i > 0:
            x = op.add(product(x, tensors[f"rnn.{i}.kernel"]), op.constant(input_bias(bias)))
        after += cell(x, states[per_layer * i : per_layer * (i + 1)], tensors[f"rnn.{i}.recurrent_kernel"], bias)
        x = after[per_layer * i]
    return after, op.add(product(x, tensors["dense.kernel"]), op.constant(tensors["dense.bias"]))


def gru_step(x: Any, states: Sequence[Any], recurrent_kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> list[Any]:
    """Keras's GRU with reset_after=True (Cho et al. 2014, in cuDNN's form): x [B, 3 * units] with its bias, state [B, units]."""
    (h,) = states
    units = recurrent_kernel.shape[0]
    g = op.add(product(h, recurrent_kernel), op.constant(bias[1]))
    zr = op.sigmoid(op.add(columns(x, 0, 2 * units), columns(g, 0, 2 * units)))
    z, r = columns(zr, 0, units), columns(zr, units, 2 * units)
    candidate = op.tanh(op.add(columns(x, 2 * units, 3 * units), op.multiply(r, columns(g, 2 * units, 3 * units))))
    return [op.add(candidate, op.multiply(z, op.subtract(h, candidate)))]


def lstm_step(x: Any, states: Sequence[Any], recurrent_kernel: NDArray[np.float32], _bias: NDArray[np.float32]) -> list[Any]:
    """Keras's LSTM (Hochreiter & Schmidhuber 1997): x [B, 4 * units] with its bias; states h and c, each [B, units]."""
    h, c = states
    units = recurrent_kernel.shape[0]
    i, f, candidate, o = (columns(op.add(x, product(h, recurrent_kernel)), k * units, (k + 1) * units) for k in range(4))
    c = op.add(op.multiply(op.sigmoid(f), c), op.multiply(op.sigmoid(i), op.tanh(candidate)))
    return [op.multiply(op.sigmoid(o), op.tanh(c)), c]


def sample(logits: Any, uniform: Any, inverse_temperature: Any) -> Any:
    """One id a row: logits [B, V], uniform [B], inverse_temperature [B, 1], 0 for the most likely one."""
    vocabulary = op.constant(np.int32(logits.get_output_partial_shape(0)[1].get_length() - 1))
    likeliest = op.squeeze(op.topk(logits, op.constant(np.int64(1)), 1, "max", "none", index_element_type="i32").output(1), ints(1))
    weights = op.exp(op.multiply(op.subtract(logits, op.reduce_max(logits, ints(1), True)), inverse_temperature))
    cdf = op.cumsum(weights, op.constant(np.int64(1)))
    total = op.slice(cdf, ints(-1), ints(np.iinfo(np.int64).max), ints(1), ints(1))
    below = op.convert(op.less_equal(cdf, op.multiply(op.unsqueeze(uniform, ints(1)), total)), "i32")
    sampled = op.minimum(op.reduce_sum(below, ints(1), False), vocabulary)
    return op.select(op.greater(op.squeeze(inverse_temperature, ints(1)), op.constant(np.float32(0))), sampled, likeliest)


def product(x: Any, kernel: NDArray[np.float32]) -> Any:
    return op.matmul(x, op.constant(kernel), False, False)


def columns(tensor: Any, start: int, stop: int) -> Any:
    return op.slice(tensor, ints(start), ints(stop), ints(1), ints(1))


def ints(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))
