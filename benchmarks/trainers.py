"""One interface for all that trains: Folio's trainer, the peers, Folio's input alone, and TensorFlow's products alone.

Each runs in a process of its own. All on the CPU, each with as many threads as it takes by itself.
"""

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import numpy as np

from benchmarks.apart import Apart, Missing
from benchmarks.reference import WARM_UP, Cell, Measured, reference, text
from trainer.artifact import GATES
from trainer.batches import BATCHES, Batches
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.importing import configure_tensorflow
from trainer.scan_library import count_row_shards

SYSTEMS = ("limit-f32", "limit-bf16", "keras", "torch", "folio-f32", "folio-bf16", "input-streams", "input-windows")


class System(Protocol):
    """Goes on from turn to turn, having warmed up before the first."""

    def measure(self, batches: int) -> Measured:
        """Trains on the next `batches`."""
        ...


class Folio:
    """The trainer's own step, set up and fed as `trainer.loop` does it for the recipe `tutorial`."""

    def __init__(self, config: TrainingConfig, text: Corpus) -> None:
        configure_tensorflow(config.batch_size, config.precision)
        from trainer import network
        from trainer.loop import make_deterministic
        from trainer.step import make_optimizer, training_step
        from trainer.workers import Workers

        workers = Workers()
        make_deterministic(config.seed)
        architecture = config.architecture(text.vocabulary.characters)
        weights = network.initial_weights(architecture)
        examples = examples_of(config, text)
        batches = config.epochs * len(examples)
        optimizer = make_optimizer(config, weights, batches)
        self._step = training_step(config, architecture, weights, {}, optimizer, batches=batches, workers=workers)
        self._states = network.zero_states(architecture, config.batch_size)
        self._numbered = enumerate(_epochs(examples))
        self._characters = config.batch_size * config.seq_length
        self.measure(WARM_UP)

    def measure(self, batches: int) -> Measured:
        import tensorflow as tf

        start, losses = time.perf_counter(), []
        for _ in range(batches):
            number, (inputs, targets) = next(self._numbered)
            loss, _, self._states = self._step(tf.constant(number), tf.constant(0.0), self._states, inputs, targets)
            losses.append(float(loss))
        return Measured(batches * self._characters / (time.perf_counter() - start), sum(losses) / batches)


class Input:
    """What gives Folio's trainer its batches, with nobody who trains on them."""

    def __init__(self, config: TrainingConfig, text: Corpus) -> None:
        self._examples = examples_of(config, text)
        self._characters = config.batch_size * config.seq_length
        self.measure(0)

    def measure(self, batches: int) -> Measured:  # noqa: ARG002 - an epoch takes no longer than a batch of training
        """An epoch of batches, its beginning counted too."""
        start = time.perf_counter()
        for _ in self._examples.epoch(1):
            pass
        return Measured(len(self._examples) * self._characters / (time.perf_counter() - start))


class Limit:
    """The recurrent products of a batch by TensorFlow, in parts as `trainer.scan_loop` computes them, and nothing else.

    Each character costs three times 2 * units * columns floating-point operations: on the way forward, on the way back, and for
    the kernel's gradient, which is one product for all steps.
    """

    def __init__(self, config: TrainingConfig) -> None:
        configure_tensorflow(config.batch_size, config.precision)
        import tensorflow as tf

        steps, units, columns = config.seq_length, config.units, GATES[config.cell] * config.units
        parts = count_row_shards(config.batch_size)
        rows = config.batch_size // parts
        self._characters = config.batch_size * steps
        self._operations = 2 * self._characters * units * columns  # of each of the three, in a batch
        generator = np.random.default_rng(0)

        def matrix(*shape: int) -> tf.Tensor:
            return tf.cast(generator.normal(size=shape), tf.bfloat16 if config.precision == "bf16" else tf.float32)

        kernel = matrix(units, columns)
        self._products = [  # for each part the left operand, and the right ones
            [(tf.transpose(kernel), matrix(steps, units, rows)) for _ in range(parts)],
            [(kernel, matrix(steps, columns, rows)) for _ in range(parts)],
            [(matrix(units, rows * steps), matrix(1, rows * steps, columns)) for _ in range(parts)],
        ]

        @tf.function  # type: ignore[untyped-decorator]
        def multiply(products: list[tuple[tf.Tensor, tf.Tensor]]) -> list[tf.Tensor]:
            return [tf.map_fn(partial(tf.matmul, a), b, parallel_iterations=1) for a, b in products]

        self._multiply = multiply
        self.measure(1)

    def measure(self, batches: int) -> Measured:
        total, gflops = 0.0, {}
        for products in self._products:
            start = time.perf_counter()
            for _ in range(batches):
                self._multiply(products)
            total += (seconds := time.perf_counter() - start)
            a, b = products[0]
            gflops[f"{a.shape} x {b.shape[1:]}"] = batches * self._operations / seconds / 1e9
        return Measured(batches * self._characters / total, gflops=gflops)


class SystemProcess(Apart):
    """A system in a process of its own."""

    def __init__(self, name: str, *, cell: Cell, emulate_bf16: bool) -> None:
        """Raises Missing or Failed."""
        super().__init__(name, open_system, name, cell, emulate_bf16)

    def measure(self, batches: int) -> Measured:
        """See `System.measure`. Raises Failed."""
        measured: Measured = self.call("measure", batches)
        return measured


def open_system(name: str, cell: Cell, emulate_bf16: bool) -> System:
    """One of SYSTEMS. Raises Missing where a package or a precision is not to be had."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        match name.split("-"):
            case ["limit", precision]:
                _check_precision(precision, emulate_bf16)
                return Limit(reference(cell, precision=precision))
            case ["keras"]:
                from benchmarks.peers.keras_fit import KerasFit

                return KerasFit(reference(cell), text())
            case ["torch"]:
                from benchmarks.peers.torch_training import TorchTraining

                return TorchTraining(reference(cell), text())
            case ["input", examples]:
                return Input(reference(cell, examples=examples), text())
            case ["folio", precision]:
                _check_precision(precision, emulate_bf16)
                return Folio(reference(cell, precision=precision), text())
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed") from error
    raise ValueError(f"no system is called {name}")


def _check_precision(precision: str, emulate_bf16: bool) -> None:
    """Raises Missing for bfloat16 on a CPU that does not compute in it, unless it is to be emulated."""
    from trainer.step import resolve_precision

    if precision == "bf16" and resolve_precision("auto") != "bf16" and not emulate_bf16:
        raise Missing("this CPU does not compute in bfloat16, and emulating it takes longer than float32; --emulate-bf16 does it")


def examples_of(config: TrainingConfig, text: Corpus) -> Batches:
    return BATCHES[config.examples](text.ids, config.seq_length, config.batch_size, config.seed)


def _epochs(examples: Batches) -> Iterator[tuple[object, object]]:
    """The batches of one epoch after the other, without end."""
    number = 1
    while True:
        yield from examples.epoch(number)
        number += 1
