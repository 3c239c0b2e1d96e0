"""The exact step in NumPy: the specification that the kernel matches bit for bit, and the fallback where it cannot be built.

Products of int8 kernels and int8 states are integer sums, which are the same in any order. Everything else is float32 by IEEE 754
add, subtract, multiply and divide in the order written here: no fused multiply-add, no reciprocal estimates, no library exp.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import Batch
from service.generation.quantized import Kernel, QuantizedNetwork
from service.generation.sampling import History, Sampling

Floats = NDArray[Any]  # always float32, which NumPy's types do not express
f32 = np.float32

LANES = 16  # probabilities are summed in groups of this size
SMALLEST = f32(-80)  # a weight below exp(-80) times the largest one is set to 0
TO_INTEGER = f32(1.5 * 2**23)  # adding and subtracting it rounds to the nearest integer, ties to even
EXP = [f32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)]


def exp(x: Floats) -> Floats:
    """e^x, x clamped to [-87, 88], as in expf of Cephes (Moshier): x = n ln 2 + r, with a polynomial for e^r."""
    x = np.clip(x, f32(-87), f32(88))
    n = round_to_integer(x * f32(1.44269504))
    r: Floats = x - n * f32(0.693359375)  # ln 2 is split in two: n times the first part is exact
    r = r - n * f32(-2.12194440e-4)
    p: Floats = np.full_like(r, EXP[0])
    for c in EXP[1:]:
        p = p * r + c
    p = p * (r * r) + r + f32(1)
    powers: Floats = (p.view(np.int32) + (n.astype(np.int32) << 23)).view(np.float32)
    return powers


def round_to_integer(x: Floats) -> Floats:
    return np.subtract(x + TO_INTEGER, TO_INTEGER)


def product(h: Floats, kernel: Kernel) -> Floats:
    """States [rows, units] in (-1, 1) times a kernel. Rounds the states for this product only; the carried state stays float32."""
    sums: Floats = round_to_integer(h * f32(127)).astype(kernel.floats.dtype) @ kernel.floats
    scaled: Floats = sums.astype(f32) * kernel.scale
    return scaled + kernel.bias


def gru(x: Floats, a: Floats, h: Floats) -> Floats:
    """h' = z h + (1 - z) tanh(x_h + r a_h) with z, r = sigmoid(x + a); x, a: [rows, 3 units], gates z r h (Keras, reset_after).

    With ez = e^-z and tanh(y) = (1 - et) / (1 + et) for et = e^-2y, one division is enough. The limit of 40 avoids infinities.
    """
    (xz, xr, xh), (az, ar, ah) = np.split(x, 3, 1), np.split(a, 3, 1)
    ez, er = exp(np.minimum(-(az + xz), f32(40))), exp(-(ar + xr))
    y = xh + ah / (f32(1) + er)
    et = exp(np.minimum(f32(-2) * y, f32(40)))
    t = f32(1) + et
    return (ez * (f32(1) - et) + h * t) / ((f32(1) + ez) * t)


def lstm(x: Floats, a: Floats, c: Floats) -> tuple[Floats, Floats]:
    """c' = f c + i tanh(g), h' = o tanh(c') with i, f, o = sigmoid(x + a); x, a: [rows, 4 units], gates i f g o (Keras)."""
    i, f, g, o = np.split(a + x, 4, 1)
    ei, ef, eg = exp(np.minimum(-i, f32(40))), exp(np.minimum(-f, f32(40))), exp(np.minimum(f32(-2) * g, f32(40)))
    c = c / (f32(1) + ef) + (f32(1) - eg) / ((f32(1) + ei) * (f32(1) + eg))
    eo, ec = exp(np.minimum(-o, f32(40))), exp(np.minimum(f32(-2) * c, f32(40)))
    return (f32(1) - ec) / ((f32(1) + eo) * (f32(1) + ec)), c


def step(
    network: QuantizedNetwork, states: Floats, characters: NDArray[np.int32], paused: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Reads one character a row. Returns (the next states [rows, vectors, units], logits [rows, vocabulary]).

    Paused rows keep their states.
    """
    after, below = states.copy(), np.empty(0, f32)
    vectors = len(states[0]) // len(network.layers)
    for i, layer in enumerate(network.layers):
        x = product(below, layer.input) if i else network.input_product(characters)
        own = states[:, vectors * i : vectors * (i + 1)]
        a = product(own[:, 0], layer.recurrent)
        if network.cell == "gru":
            after[:, i] = gru(x, a, own[:, 0])
        else:
            after[:, vectors * i], after[:, vectors * i + 1] = lstm(x, a, own[:, 1])
        after[paused] = states[paused]
        below = after[:, vectors * i]
    return after, product(below, network.output)


def draw(logits: Floats, uniform: np.float32, sampling: Sampling, history: History | None) -> int:
    """Samples an id from one row's logits [vocabulary] by inverting the CDF at `uniform`. See `Sampling` for the order."""
    allowed, logits = allowed_next(len(logits), sampling, history)[: len(logits)], adjust(logits, sampling, history)
    x = np.where(allowed, logits - logits[allowed].max(), f32(-1)) * f32(sampling.inverse_temperature)
    weights = np.where(allowed & (x >= SMALLEST), exp(x), f32(0))
    if sampling.top_k is not None or sampling.f32_top_p < 1 or sampling.min_p > 0:
        weights = keep_likely(weights, sampling)
    return invert(weights, uniform)


def adjust(logits: Floats, sampling: Sampling, history: History | None) -> Floats:
    """Applies bias and penalties to the logits [vocabulary]."""
    if sampling.bias is not None:
        logits = logits + sampling.bias
    if history is None or not sampling.penalizes:
        return logits
    drawn, repetition = history.counts[1], f32(sampling.repetition_penalty)
    divided = np.where(logits > 0, logits / repetition, logits * repetition)
    logits = np.where(history.counts.any(0), divided, logits)
    logits = logits - f32(sampling.frequency_penalty) * drawn.astype(f32)
    return np.where(drawn > 0, logits - f32(sampling.presence_penalty), logits)


def allowed_next(vocabulary: int, sampling: Sampling, history: History | None) -> NDArray[np.bool_]:
    """Which characters are allowed next: [vocabulary], then those that only the automaton knows."""
    allowed = np.full(vocabulary, True) if sampling.allowed is None else sampling.allowed
    if history is None or sampling.automaton is None:
        return allowed
    after = sampling.automaton.next[history.state]
    reachable: NDArray[np.bool_] = (after >= 0) & (sampling.automaton.distance[after] < history.num_left)
    reachable[:vocabulary] &= allowed
    return reachable


def divide(vocabulary: int, uniform: np.float32, sampling: Sampling, history: History | None) -> tuple[bool, np.float32]:
    """Decides between the characters that the network knows and those that only the automaton knows. See `Automaton`.

    Returns (whether it is one of the latter, the uniform number to sample it with).
    """
    allowed = allowed_next(vocabulary, sampling, history)
    known, unknown = f32(allowed[:vocabulary].sum()), f32(allowed[vocabulary:].sum())
    if known and (not unknown or f32(sampling.inverse_temperature) >= f32(1e30)):
        return False, uniform
    place = uniform * (known + unknown)
    return (True, place / max(unknown, f32(1))) if place < unknown or not known else (False, (place - unknown) / known)


def draw_unknown(vocabulary: int, uniform: np.float32, sampling: Sampling, history: History | None) -> int:
    """Samples one of the characters that only the automaton knows, with equal probability. -1 if it allows none."""
    allowed = np.flatnonzero(allowed_next(vocabulary, sampling, history)[vocabulary:])
    if not len(allowed):
        return -1
    return vocabulary + int(allowed[min(int(uniform * f32(len(allowed))), len(allowed) - 1)])


def keep_likely(weights: Floats, sampling: Sampling) -> Floats:
    """Sets the weights to 0 that top_k, top_p and min_p exclude, in this order. Equal weights are ordered by id."""
    order = np.argsort(-weights, kind="stable")
    if sampling.top_k is not None:
        order = order[: sampling.top_k]
    if sampling.f32_top_p < 1:
        sums = np.cumsum(weights[order], dtype=f32)
        before = np.concatenate([np.zeros(1, f32), sums[:-1]])
        order = order[before < sums[-1] * sampling.f32_top_p]
    if sampling.min_p > 0:
        order = order[weights[order] >= weights[order[0]] * f32(sampling.min_p)]
    kept = np.zeros_like(weights)
    kept[order] = weights[order]
    return kept


def invert(weights: Floats, uniform: np.float32) -> int:
    """The first id at which the cumulative weight exceeds `uniform` times the total.

    Weights are summed in groups of 16, each as a tree, so that SIMD code can sum them. Then one group is summed in order.
    """
    groups = np.pad(weights, (0, -len(weights) % LANES)).reshape(-1, LANES)
    totals = groups
    while totals.shape[1] > 1:
        totals = totals[:, ::2] + totals[:, 1::2]
    sums = np.cumsum(totals[:, 0], dtype=f32)
    target = uniform * sums[-1]
    last = int(np.flatnonzero(totals[:, 0])[-1])  # rounding may raise the target to the total
    group = min(int((sums <= target).sum()), last)
    start = sums[group - 1] if group else f32(0)
    within = np.cumsum(np.concatenate([[start], groups[group]]), dtype=f32)[1:]
    lane = min(int((within <= target).sum()), int(np.flatnonzero(groups[group])[-1]))
    return group * LANES + lane


def advance(network: QuantizedNetwork, states: Floats, batch: Batch) -> tuple[NDArray[np.int32], Floats, Floats | None]:
    """See `NativeNetwork.advance`. A row that samples a character which only its automaton knows is paused for the step."""
    chosen, inputs, uniforms, histories = batch.forced.copy(), batch.inputs.copy(), batch.uniforms.copy(), batch.histories
    snapshots, logits = np.zeros_like(states), list[Floats]()
    for k in range(len(chosen)):
        samples, paused = batch.forced[k] < 0, np.zeros(len(inputs), np.bool_)
        for b, history in histories.items():
            if batch.sampling[b].automaton is not None and samples[b]:
                paused[b], uniforms[k, b] = divide(network.vocabulary, uniforms[k, b], batch.sampling[b], history)
        snapshots[batch.snapshot_at == k] = states[batch.snapshot_at == k]
        states[...], row_logits = step(network, states, inputs, paused)
        logits.append(row_logits)
        for b in np.flatnonzero(samples).tolist():
            options = uniforms[k, b], batch.sampling[b], batch.history(b)
            chosen[k, b] = draw_unknown(network.vocabulary, *options) if paused[b] else draw(row_logits[b], *options)
            remember(batch.history(b), batch.sampling[b], chosen[k, b])
        inputs = np.where(paused, inputs, chosen[k])
    return chosen, snapshots, np.stack(logits) if batch.top_logprobs is not None else None


def remember(history: History | None, sampling: Sampling, character: int) -> None:
    """Updates the counts, and the automaton's state and budget, with a sampled id."""
    if history is None or character < 0:
        return
    if sampling.penalizes and character < history.counts.shape[1]:
        history.counts[1, character] += 1
    if sampling.automaton is not None:
        history.state = int(sampling.automaton.next[history.state, character])
        history.num_left -= 1
