"""The shipped network in PyTorch, as one writes it there: nn.Embedding, nn.GRU, nn.Linear, one call a step."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import START, log_softmax, rate_of
from trainer.artifact import Architecture, Tensors
from trainer.vocabulary import Vocabulary


class TorchGRU:
    """Generates for a batch of streams; the GRU's weights converted from Keras's."""

    rounded = False

    def __init__(self, architecture: Architecture, tensors: Tensors) -> None:
        if architecture.cell != "gru" or architecture.layers != 1:
            raise NotImplementedError("written for one GRU layer")
        self.vocabulary = Vocabulary(architecture.vocabulary)
        self._embedding = torch.nn.Embedding(len(self.vocabulary), architecture.embedding)
        self._gru = torch.nn.GRU(architecture.embedding, architecture.units, batch_first=True)
        self._linear = torch.nn.Linear(architecture.units, len(self.vocabulary))
        with torch.no_grad():
            for parameter, value in (
                (self._embedding.weight, tensors["embedding"]),
                (self._gru.weight_ih_l0, gates(tensors["rnn.0.kernel"]).T),
                (self._gru.weight_hh_l0, gates(tensors["rnn.0.recurrent_kernel"]).T),
                (self._gru.bias_ih_l0, gates(tensors["rnn.0.bias"])[0]),
                (self._gru.bias_hh_l0, gates(tensors["rnn.0.bias"])[1]),
                (self._linear.weight, tensors["dense.kernel"].T),
                (self._linear.bias, tensors["dense.bias"]),
            ):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def steps(self, starts: Sequence[str], temperatures: Sequence[float]) -> Iterator[list[int]]:
        """The next character of each stream, without end. Start strings of one length are read together, others apart."""
        with torch.inference_mode():
            state, logits = self._read(starts)
            temperature = torch.tensor(temperatures)[:, None]
            while True:
                ids = torch.multinomial(torch.softmax(logits / temperature, dim=1), 1)
                yield ids[:, 0].tolist()
                logits, state = self._advance(ids, state)

    def rate(self, streams: int, seconds: float) -> float:
        steps = self.steps([START] * streams, [1.0] * streams)
        return rate_of(lambda: len(next(steps)), seconds)

    def log_probabilities(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output, _ = self._gru(self._embedding(torch.from_numpy(ids[None, :-1])))
            logits = self._linear(output)[0].numpy()
        return log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]].astype(np.float32)

    def _read(self, starts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """What start strings leave: (state [1, B, units], logits [B, vocabulary])."""
        encoded = [torch.from_numpy(self.vocabulary.encode(start)) for start in starts]
        together = [torch.stack(encoded)] if len({len(ids) for ids in encoded}) == 1 else [ids[None] for ids in encoded]
        read = [self._advance(ids, None) for ids in together]
        return torch.cat([state for _, state in read], dim=1), torch.cat([logits for logits, _ in read])

    def _advance(self, ids: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids [B, characters], state [1, B, units] or None for zeros) -> (last logits [B, vocabulary], state)."""
        output, state = self._gru(self._embedding(ids), state)
        return self._linear(output[:, -1]), state


def gates(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., 3 * units] in Keras's order of gates, z r h, as PyTorch has them: r z n (its n is Keras's h, its z the same)."""
    z, r, h = np.split(columns, 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)
