"""Training as one writes it in PyTorch: nn.Embedding, nn.GRU or nn.LSTM, nn.Linear, Adam, cross_entropy."""

import time
from itertools import cycle
from typing import Any

import torch

from benchmarks.reference import WARM_UP, Measured, batches_in_memory
from trainer.config import TrainingConfig
from trainer.corpus import Corpus

LAYERS = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


class TorchTraining:
    """The batches lie in memory, as tensors; the state is carried from one to the next, the gradient is not."""

    def __init__(self, config: TrainingConfig, text: Corpus) -> None:
        if config.layers != 1:
            raise NotImplementedError("written for one recurrent layer")
        torch.manual_seed(config.seed)
        self._embedding = torch.nn.Embedding(len(text.vocabulary), config.embedding)
        self._recurrent = LAYERS[config.cell](config.embedding, config.units, batch_first=True)
        self._linear = torch.nn.Linear(config.units, len(text.vocabulary))
        modules = torch.nn.ModuleList([self._embedding, self._recurrent, self._linear])
        self._optimizer = torch.optim.Adam(modules.parameters(), lr=config.learning_rate)
        inputs, targets = (torch.from_numpy(array).long() for array in batches_in_memory(config, text.ids))
        self._batches = cycle(zip(inputs, targets, strict=True))
        self._state: Any = None
        self.measure(WARM_UP)

    def measure(self, batches: int) -> Measured:
        start, losses, characters = time.perf_counter(), [], 0
        for _ in range(batches):
            inputs, targets = next(self._batches)
            outputs, state = self._recurrent(self._embedding(inputs), self._state)
            self._state = tuple(value.detach() for value in state) if isinstance(state, tuple) else state.detach()
            loss = torch.nn.functional.cross_entropy(self._linear(outputs).flatten(0, 1), targets.flatten())
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(loss.item())
            characters += inputs.numel()
        return Measured(characters / (time.perf_counter() - start), sum(losses) / batches)
