"""The network's loop as OpenVINO graphs: one call advances B rows by K steps, sampling included.

Embedding and input kernel are folded into one table of vocabulary x gates * units, so a step is a row look-up, one product
with the recurrent kernel, the gates, and the output product. Knows tensors; nothing of slots, devices or requests.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from service.generation.decoder import LIKELIEST, STATES, Precision, input_bias, input_table
from trainer.artifact import Architecture, Tensors


class Network:
    """A version's network as graph nodes; all loops made from it share its weights."""

    def __init__(self, architecture: Architecture, tensors: Tensors, precision: Precision) -> None:
        self.states = STATES[architecture.cell] * architecture.layers
        self.units, self.vocabulary = architecture.units, len(architecture.vocabulary)
        self._cell, self._per_layer = (gru_step, 1) if architecture.cell == "gru" else (lstm_step, 2)
        self._table, self._tensors = input_table(tensors), tensors
        kernels = [f"rnn.{i}.{kernel}" for i in range(architecture.layers) for kernel in ("kernel", "recurrent_kernel")]
        # The first kernel is in the table; the output's is small, and rounding it would go straight into the logits.
        self._rounded = {name: rounded(tensors[name]) for name in kernels[1:]} if precision == "int8" else {}
        self._layers = architecture.layers

    def step(self, character: Any, states: Sequence[Any]) -> tuple[list[Any], Any]:
        """(character [B], all layers' states, each [B, units]) -> (states, logits [B, vocabulary])."""
        x, after = op.gather(constant(self._table), character, op.constant(np.int64(0))), list[Any]()
        for i in range(self._layers):
            bias = self._tensors[f"rnn.{i}.bias"]
            if i > 0:
                x = op.add(self._product(x, f"rnn.{i}.kernel"), op.constant(input_bias(bias)))
            first = self._per_layer * i
            h = states[first]
            after += self._cell(x, self._product(h, f"rnn.{i}.recurrent_kernel"), states[first : first + self._per_layer], bias)
            x = after[first]
        return after, op.add(self._product(x, "dense.kernel"), op.constant(self._tensors["dense.bias"]))

    def _product(self, x: Any, kernel: str) -> Any:
        if kernel not in self._rounded:
            return op.matmul(x, constant(self._tensors[kernel]), False, False)
        integers, scales = self._rounded[kernel]
        return op.matmul(x, op.multiply(op.convert(constant(integers), "f32"), op.constant(scales)), False, False)


def rounded(kernel: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A kernel [n, m] as 8-bit integers and each column's scale [1, m], whose product is nearest to it."""
    scales = np.maximum(np.abs(kernel).max(axis=0, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.round(kernel / scales).astype(np.int8), scales


def gru_step(x: Any, g: Any, states: Sequence[Any], bias: NDArray[np.float32]) -> list[Any]:
    """Keras's GRU with reset_after=True (Cho et al. 2014, in cuDNN's form).

    x [B, 3 * units]: the input product and its bias; g [B, 3 * units]: the recurrent product; state [B, units].
    """
    (h,) = states
    units = bias.shape[1] // 3
    g = op.add(g, op.constant(bias[1]))
    zr = op.sigmoid(op.add(columns(x, 0, 2 * units), columns(g, 0, 2 * units)))
    z, r = columns(zr, 0, units), columns(zr, units, 2 * units)
    candidate = op.tanh(op.add(columns(x, 2 * units, 3 * units), op.multiply(r, columns(g, 2 * units, 3 * units))))
    return [op.add(candidate, op.multiply(z, op.subtract(h, candidate)))]


def lstm_step(x: Any, g: Any, states: Sequence[Any], bias: NDArray[np.float32]) -> list[Any]:
    """Keras's LSTM (Hochreiter & Schmidhuber 1997): x and g as for the GRU, [B, 4 * units]; states h and c [B, units]."""
    _, c = states
    units = bias.shape[0] // 4
    gates = op.add(x, g)
    i, f, candidate, o = (columns(gates, k * units, (k + 1) * units) for k in range(4))
    c = op.add(op.multiply(op.sigmoid(f), c), op.multiply(op.sigmoid(i), op.tanh(candidate)))
    return [op.multiply(op.sigmoid(o), op.tanh(c)), c]


def plain_loop(network: Network) -> ov.Model:
    """Draws by temperature alone.

    (states [B, states, units], inputs [B], forced and uniforms [K, B], 1 / temperature [B, 1]) -> (chosen [K, B], states).
    """
    loop = Loop()
    states = [loop.carried(first) for first in first_states(loop, network)]
    character = loop.carried(loop.input([-1], np.int32))
    forced, uniform = loop.each([-1], np.int32), loop.each([-1], np.float32)
    inverse_temperature = loop.invariant([-1, 1], np.float32)
    after, logits = network.step(character, states)
    chosen = choose(forced, draw(unnormalized(logits, inverse_temperature), uniform, network.vocabulary))
    (stacked,), last = loop.run(each=[chosen], carried=[*after, chosen])
    return graph(loop, [stacked, stack(last[:-1])])


def full_loop(network: Network) -> ov.Model:
    """Everything that `Batch` can ask for.

    The plain loop's inputs, then: bias [B, vocabulary]; whether anything is left out (bool); top_k, top_p and min_p [B, 1];
    whether log-probabilities are wanted (bool); keep [B, 1]. -> (chosen [K, B]; its log-probability [K, B]; the likeliest
    [K, B, N]; theirs [K, B, N]; states; copies of states).
    """
    loop = Loop()
    firsts = first_states(loop, network)
    states = [loop.carried(first) for first in firsts]
    character = loop.carried(loop.input([-1], np.int32))
    forced, uniform = loop.each([-1], np.int32), loop.each([-1], np.float32)
    inverse_temperature = loop.invariant([-1, 1], np.float32)
    bias, restricted = loop.invariant([-1, network.vocabulary], np.float32), loop.invariant([], bool)
    top_k, top_p, min_p = (loop.invariant([-1, 1], dtype) for dtype in (np.int32, np.float32, np.float32))
    log_probabilities, keep = loop.invariant([], bool), loop.invariant([-1, 1], np.int64)
    copies = [loop.carried(first) for first in firsts]

    after, logits = network.step(character, states)
    weights = unnormalized(op.add(logits, bias), inverse_temperature)
    (weights,) = when(restricted, [weights, top_k, top_p, min_p], kept_weights, lambda weights, *_: [weights])
    chosen = choose(forced, draw(weights, uniform, network.vocabulary))
    own, likeliest, values = when(log_probabilities, [logits, chosen], log_probabilities_of, nothing_of)
    wanted = op.equal(keep, loop.step())
    copied = [op.select(wanted, state, copy) for state, copy in zip(states, copies, strict=True)]

    stacked, last = loop.run(each=[chosen, own, likeliest, values], carried=[*after, chosen, *copied])
    return graph(loop, [*stacked, stack(last[: network.states]), stack(last[network.states + 1 :])])


def unnormalized(logits: Any, inverse_temperature: Any) -> Any:
    """The characters' probabilities but for a factor, [B, vocabulary]: the likeliest has 1."""
    return op.exp(op.multiply(op.subtract(logits, op.reduce_max(logits, ints(1), True)), inverse_temperature))


def kept_weights(weights: Any, top_k: Any, top_p: Any, min_p: Any) -> list[Any]:
    """The weights with 0 for what top_k, top_p and min_p leave out; the others keep their bits."""
    size = vocabulary_of(weights)
    ranked = op.topk(weights, op.constant(np.int64(size)), 1, "max", "value", index_element_type="i32", stable=True)
    descending = ranked.output(0)
    among_k = op.convert(op.less(op.constant(np.arange(size, dtype=np.int32)[None]), top_k), "f32")
    descending = op.multiply(descending, among_k)
    cumulative = op.cumsum(descending, op.constant(np.int64(1)))
    before = op.subtract(cumulative, descending)
    nucleus = op.convert(op.less(before, op.multiply(top_p, columns(cumulative, size - 1, size))), "f32")
    likely = op.convert(op.greater_equal(descending, op.multiply(min_p, columns(descending, 0, 1))), "f32")
    kept = op.multiply(descending, op.multiply(nucleus, likely))
    return [op.scatter_elements_update(kept, ranked.output(1), kept, op.constant(np.int64(1)))]


def draw(weights: Any, uniform: Any, size: int) -> Any:
    """One id a row [B]: the first whose cumulative share of the weights [B, size] exceeds the uniform [B]."""
    cdf = op.cumsum(weights, op.constant(np.int64(1)))
    target = op.multiply(op.unsqueeze(uniform, ints(1)), columns(cdf, size - 1, size))  # < the total: a uniform is < 1
    return op.reduce_sum(op.convert(op.less_equal(cdf, target), "i32"), ints(1), False)


def choose(forced: Any, drawn: Any) -> Any:
    """What is forced [B] where it is not negative, else what was drawn [B]."""
    return op.select(op.greater_equal(forced, op.constant(np.int32(0))), forced, drawn)


def log_probabilities_of(logits: Any, chosen: Any) -> list[Any]:
    """Of the chosen [B]; the N likeliest [B, N]; of these [B, N]."""
    p = op.log_softmax(logits, 1)
    count = op.constant(np.int64(min(LIKELIEST, vocabulary_of(logits))))
    likeliest = op.topk(p, count, 1, "max", "value", index_element_type="i32", stable=True)
    own = op.squeeze(op.gather_elements(p, op.unsqueeze(chosen, ints(1)), axis=1), ints(1))
    return [own, likeliest.output(1), likeliest.output(0)]


def nothing_of(logits: Any, chosen: Any) -> list[Any]:
    """Zeros in the shape of `log_probabilities_of`."""
    count = op.shape_of(chosen)
    shape = op.concat([count, ints(min(LIKELIEST, vocabulary_of(logits)))], 0)
    zero = op.constant(np.float32(0))
    return [op.broadcast(zero, count), op.broadcast(op.constant(np.int32(0)), shape), op.broadcast(zero, shape)]


class Loop:
    """A loop over steps, built input by input: `inputs` belong to the graph, what the methods return belongs to the body."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self._firsts: list[Any] = []  # what each carried value is at first
        self._parameters: list[Any] = []
        self._step: Any = None
        self._carried: list[Any] = []
        self._each: list[tuple[Any, Any]] = []
        self._invariant: list[tuple[Any, Any]] = []

    def input(self, shape: Sequence[int], dtype: type) -> Any:
        self.inputs.append(op.parameter(shape, dtype))
        return self.inputs[-1]

    def step(self) -> Any:
        """How many steps have been made before this one."""
        self._step = self._parameter([], np.int64)
        return self._step

    def carried(self, first: Any) -> Any:
        """What each step hands to the next; the first step gets a value of the graph."""
        self._carried.append(self._parameter(first.get_output_partial_shape(0), first.get_output_element_type(0)))
        self._firsts.append(first)
        return self._carried[-1]

    def each(self, shape: Sequence[int], dtype: type) -> Any:
        """The step's part of a new input of the graph, [K, *shape]."""
        self._each.append((self._parameter([1, *shape], dtype), self.input([-1, *shape], dtype)))
        return op.squeeze(self._each[-1][0], ints(0))

    def invariant(self, shape: Sequence[int], dtype: type) -> Any:
        """A new input of the graph, the same for each step."""
        self._invariant.append((self._parameter(shape, dtype), self.input(shape, dtype)))
        return self._invariant[-1][0]

    def run(self, each: Sequence[Any], carried: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """(What all steps gave of `each`, stacked to [K, ...]; what the last step gave of `carried`)."""
        results = [op.result(value) for value in (*carried, *(op.unsqueeze(value, ints(0)) for value in each))]
        results.append(op.result(op.constant(np.array(True))))  # go on
        values = [result.input_value(0) for result in results]
        steps = op.squeeze(op.slice(op.shape_of(self._each[0][1]), ints(0), ints(1), ints(1)), ints(0))
        loop = op.loop(steps, op.constant(np.array(True)))
        loop.set_function(ov.Model(results, self._parameters))
        step = -1 if self._step is None else self._parameters.index(self._step)
        loop.set_special_body_ports([step, len(results) - 1])
        for parameter, first, value in zip(self._carried, self._firsts, values[: len(carried)], strict=True):
            loop.set_merged_input(parameter, first.output(0), value)
        for parameter, outer in self._each:
            loop.set_sliced_input(parameter, outer.output(0), 0, 1, 1, -1, 0)
        for parameter, outer in self._invariant:
            loop.set_invariant_input(parameter, outer.output(0))
        stacked = [loop.get_concatenated_slices(value, 0, 1, 1, -1, 0) for value in values[len(carried) : -1]]
        return stacked, [loop.get_iter_value(value, -1) for value in values[: len(carried)]]

    def _parameter(self, shape: Any, dtype: Any) -> Any:
        self._parameters.append(op.parameter(shape, dtype))
        return self._parameters[-1]


def first_states(loop: Loop, network: Network) -> list[Any]:
    """All layers' states before the first step, each [B, units]: the parts of a new input of the graph, [B, states, units]."""
    states, axis = loop.input([-1, network.states, network.units], np.float32), op.constant(np.int64(1))
    return [op.gather(states, op.constant(np.int64(i)), axis) for i in range(network.states)]


def stack(states: Sequence[Any]) -> Any:
    """[B, states, units] of the states, each [B, units]."""
    return op.concat([op.unsqueeze(state, ints(1)) for state in states], 1)


def graph(loop: Loop, outputs: Sequence[Any]) -> ov.Model:
    """The graph of a loop that has been run: its inputs in the order they were asked for, these outputs."""
    return ov.Model([op.result(output) for output in outputs], loop.inputs)


def when(condition: Any, values: Sequence[Any], then: Callable[..., list[Any]], otherwise: Callable[..., list[Any]]) -> list[Any]:
    """What `then` makes of the values if the condition (a bool scalar) holds, else what `otherwise` makes of them."""
    node, bodies = op.if_op(condition.output(0)), []
    for function in (then, otherwise):
        parameters = [op.parameter(value.get_output_partial_shape(0), value.get_output_element_type(0)) for value in values]
        bodies.append((parameters, [op.result(value) for value in function(*parameters)]))
    (then_in, then_out), (else_in, else_out) = bodies
    node.set_then_body(ov.Model(then_out, then_in))
    node.set_else_body(ov.Model(else_out, else_in))
    for value, a, b in zip(values, then_in, else_in, strict=True):
        node.set_input(value.output(0), a, b)
    return [node.set_output(a, b) for a, b in zip(then_out, else_out, strict=True)]


def constant(weights: NDArray[Any]) -> Any:
    """A constant that shares the array's memory."""
    return op.constant(weights, shared_memory=True)


def vocabulary_of(rows: Any) -> int:
    """Columns of [B, vocabulary]."""
    return int(rows.get_output_partial_shape(0)[1].get_length())


def columns(tensor: Any, start: int, stop: int) -> Any:
    """Columns start to stop (not included) of [B, columns]."""
    return op.slice(tensor, ints(start), ints(stop), ints(1), ints(1))


def ints(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))
