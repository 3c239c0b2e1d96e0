"""Training as one writes it in Keras: the tutorial's stateful network, `compile`, `fit`."""

import time

import keras

from benchmarks.reference import WARM_UP, Measured, batches_in_memory
from trainer import network
from trainer.config import TrainingConfig
from trainer.corpus import Corpus


class KerasFit:
    """Each turn is a `fit` over the next batches, which lie in memory; `fit`'s own preparations are not counted."""

    def __init__(self, config: TrainingConfig, text: Corpus) -> None:
        self._batch_size = config.batch_size
        self._inputs, self._targets = batches_in_memory(config, text.ids)
        self._at = 0
        self._model = network.build(config.architecture(text.vocabulary.characters), config.batch_size)
        self._model.compile(
            optimizer=keras.optimizers.Adam(config.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.measure(WARM_UP)

    def measure(self, batches: int) -> Measured:
        if self._at + batches > len(self._inputs):
            self._at = 0
        inputs, targets = (array[self._at : self._at + batches] for array in (self._inputs, self._targets))
        self._at += batches
        begun: list[float] = []
        ended: list[float] = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda *_, **__: begun.append(time.perf_counter()),
            on_train_batch_end=lambda *_, **__: ended.append(time.perf_counter()),
        )
        rows = (array.reshape(-1, array.shape[-1]) for array in (inputs, targets))
        history = self._model.fit(*rows, batch_size=self._batch_size, shuffle=False, verbose=0, callbacks=[watch]).history
        return Measured(inputs.size / (ended[-1] - begun[0]), history["loss"][-1])
