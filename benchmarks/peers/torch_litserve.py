"""python -m benchmarks.peers.torch_litserve: PyTorch's GRU behind LitServe, streaming and with its batching.

LitServe collects requests for a moment, runs them as one batch to the end of the longest, and only then takes the next batch.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import litserve

from benchmarks.peers.torch_gru import TorchGRU
from benchmarks.systems import shipped

BATCH = 64  # as many as Folio has slots
COLLECTING = 0.02  # seconds that the first request of a batch waits for others


class Generate(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's hooks: a request decoded, a batch predicted step by step, each step's answers encoded."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        version = shipped()
        self._network = TorchGRU(version.config, version.tensors)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, requests: list[dict[str, Any]]) -> Iterator[list[str]]:
        """A character for each request a step; none for those that have all theirs."""
        wanted = [int(request["num_generate"]) for request in requests]
        starts = [str(request["start_string"]) for request in requests]
        steps = self._network.steps(starts, [float(request.get("temperature", 1)) for request in requests])
        for step, ids in enumerate(islice(steps, max(wanted))):
            texts = map(self._network.vocabulary.characters.__getitem__, ids)
            yield [text if step < count else "" for text, count in zip(texts, wanted, strict=True)]

    def encode_response(self, output: Iterator[list[str]]) -> Any:  # LitServe hands a nearer type to FastAPI, which refuses it
        for texts in output:
            yield [f"data: {json.dumps({'text': text})}\n\n" if text else "" for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.torch_litserve")
    parser.add_argument("--port", type=int, required=True)
    api = Generate(stream=True, max_batch_size=BATCH, batch_timeout=COLLECTING, api_path="/generate")
    # Not its fast_queue: that was no faster, and what its reader is late for, ZeroMQ's publisher drops.
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=parser.parse_args().port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
