"""The shipped network's shape in PyTorch on a GPU: nn.Embedding, nn.GRU, nn.Linear, softmax and a draw, one call a step."""

from collections.abc import Callable, Iterator

import torch

STEPS = 64  # of a measurement, and of a graph


class TorchCuda:
    """Half precision and random weights. CUDA graphs replay the calls of STEPS steps with one launch."""

    def __init__(self, vocabulary: int, embedding: int, units: int) -> None:
        layers = (torch.nn.Embedding(vocabulary, embedding), torch.nn.GRU(embedding, units), torch.nn.Linear(units, vocabulary))
        self._embedding, self._gru, self._linear = (layer.to("cuda", torch.float16).eval() for layer in layers)
        self._gru.flatten_parameters()
        self._vocabulary, self._units = vocabulary, units

    def rates(self, streams: int) -> Iterator[tuple[str, float]]:
        """(Way, characters/s of all streams together), the fastest way last."""
        with torch.no_grad():
            state = torch.zeros(1, streams, self._units, device="cuda", dtype=torch.float16)
            ids = torch.zeros(streams, device="cuda", dtype=torch.long)
            uniform = torch.rand(streams, 1, device="cuda")

            def many() -> None:
                for _ in range(STEPS):
                    output, new = self._gru(self._embedding(ids)[None], state)
                    state.copy_(new)
                    sums = torch.softmax(self._linear(output[0]).float(), -1).cumsum(-1)
                    ids.copy_((sums <= uniform * sums[:, -1:]).sum(-1).clamp_(max=self._vocabulary - 1))

            yield "a call a step", streams * STEPS / _seconds(many)
            yield "CUDA graphs", streams * STEPS / _seconds(_graph(many))


def _graph(work: Callable[[], None]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


def _seconds(work: Callable[[], None]) -> float:
    """The median of some calls."""
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return float(sorted(times[2:])[3])
