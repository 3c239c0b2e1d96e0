"""Calls of the compiled scan on random layers, checked against NumPy in float64. Imports no TensorFlow: sanitizers choke on it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.scan_library import RunOptions, ScanLibrary

Arrays = dict[str, NDArray[Any]]
GATES = {"gru": 3, "lstm": 4}
SIZES = [(5, 1, 1), (17, 3, 2), (17, 16, 5), (24, 33, 3), (300, 20, 3), (33, 64, 9)]  # units, rows, steps


def layer(cell: str, units: int, rows: int, steps: int, vocabulary: int = 0) -> Arrays:
    """vocabulary: of characters that select the inputs; 0: inputs of all steps."""
    rng = np.random.default_rng(units + rows + steps)
    gates, parts = GATES[cell], 1 if cell == "gru" else 2

    def draw(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    given = {
        "kernel": draw(units, gates * units, scale=units**-0.5),
        "bias": draw(4 * units, 1),
        "inputs": draw(gates * units, vocabulary or steps * rows),
        "state": draw(parts * units, rows, scale=0.5),
        "d_outputs": draw(units, steps, rows),
        "d_last": draw(parts * units, rows),
    }
    if vocabulary:
        given["characters"] = rng.integers(0, vocabulary, (steps, rows), np.int32)
    return given


def run(library: ScanLibrary, given: Arrays, options: RunOptions) -> Arrays:
    """All results of both scans, by name."""
    characters = given.get("characters")
    kernel, bias, inputs, state = (given[name] for name in ("kernel", "bias", "inputs", "state"))
    outputs, kept, last = library.forward(kernel, bias, inputs, state, characters, options)
    arrays = {name: given[name] for name in ("kernel", "state", "d_outputs", "d_last")} | {"outputs": outputs, "kept": kept}
    gradients = library.backward(arrays, characters, 0 if characters is None else given["inputs"].shape[1], options)
    names = ("d_values", "d_kernel", "d_bias", "d_inputs", "d_state")
    return {"outputs": outputs, "last": last} | dict(zip(names, gradients, strict=True))


def check(library: ScanLibrary, given: Arrays, options: RunOptions) -> None:
    """To 1e-5 of each result's largest element."""
    found, expected = run(library, given, options), reference(given)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * max(1.0, np.abs(value).max()), err_msg=name)
    assert found["d_inputs"].size == 0 or "d_inputs" in expected


def reference(given: Arrays) -> Arrays:
    """What `run` returns, by the formulas of `trainer.cells`."""
    kernel, bias, state, d_last = (given[name].astype(np.float64) for name in ("kernel", "bias", "state", "d_last"))
    inputs, characters = given["inputs"].astype(np.float64), given.get("characters")
    units, (_, steps, rows) = len(kernel), given["d_outputs"].shape
    x = inputs[:, characters] if characters is not None else inputs.reshape(-1, steps, rows)
    forward, back = (_gru, _gru_back) if len(state) == units else (_lstm, _lstm_back)
    states, kept = [state], []
    for t in range(steps):
        after, keep = forward(x[:, t], kernel.T @ states[-1][:units], bias, states[-1])
        states.append(after)
        kept.append(keep)

    first = 4 * units - kernel.shape[1]  # of the values with a bias that get a part of the recurrent product
    d_values, d_kernel, d_state = np.zeros((4 * units, steps, rows)), np.zeros_like(kernel), d_last.copy()
    for t in reversed(range(steps)):
        d_state[:units] += given["d_outputs"][:, t]
        d_values[:, t], direct = back(kept[t], states[t], d_state)
        d_kernel += states[t][:units] @ d_values[first:, t].T
        d_state = direct
        d_state[:units] += kernel @ d_values[first:, t]
    found = {
        "outputs": np.stack([after[:units] for after in states[1:]], 1),
        "last": states[-1],
        "d_values": d_values,
        "d_kernel": d_kernel,
        "d_bias": d_values.sum((1, 2))[:, None],
        "d_state": d_state,
    }
    if characters is not None:
        d_products = np.roll(d_values[: len(inputs)], -first, 0)  # x_h, the first value of a GRU, is of its last gate
        selected = np.eye(inputs.shape[1])[characters.ravel()]
        found["d_inputs"] = d_products.reshape(len(inputs), -1) @ selected
    return found


def _sigmoid(x: NDArray[Any]) -> Any:
    return 0.5 + 0.5 * np.tanh(x / 2)


def _gru(x: NDArray[Any], g: NDArray[Any], bias: NDArray[Any], h: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    (x_z, x_r, x_h), (g_z, g_r, g_h), (b_h, b_z, b_r, b_g) = np.split(x, 3), np.split(g, 3), np.split(bias, 4)
    z, r, g_h = _sigmoid(x_z + g_z + b_z), _sigmoid(x_r + g_r + b_r), g_h + b_g
    c = np.tanh(x_h + b_h + r * g_h)
    return z * h + (1 - z) * c, (z, r, g_h, c)


def _gru_back(kept: Any, h: NDArray[Any], d_h: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    z, r, g_h, c = kept
    d_c = d_h * (1 - z) * (1 - c * c)
    return np.concatenate([d_c, d_h * (h - c) * z * (1 - z), d_c * g_h * r * (1 - r), d_c * r]), d_h * z


def _lstm(x: NDArray[Any], g: NDArray[Any], bias: NDArray[Any], state: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    i, f, candidate, o = np.split(x + g + bias, 4)
    i, f, candidate, o = _sigmoid(i), _sigmoid(f), np.tanh(candidate), _sigmoid(o)
    before = np.split(state, 2)[1]
    c = f * before + i * candidate
    return np.concatenate([o * np.tanh(c), c]), (i, f, candidate, o, before, np.tanh(c))


def _lstm_back(kept: Any, _: NDArray[Any], d_state: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    i, f, candidate, o, c, reached = kept
    d_h, d_c = np.split(d_state, 2)
    d_c = d_c + d_h * o * (1 - reached**2)
    d = [d_c * candidate * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - candidate**2), d_h * reached * o * (1 - o)]
    return np.concatenate(d), np.concatenate([np.zeros_like(d_h), d_c * f])
