"""python -m benchmarks.free_running MODEL...: how the quality of a generated text changes with its length.

Each model (models/<name>/<version>) continues 64 places of the held-out tenth of the reference's text at temperature 1. By
stretch of 500 characters it is measured how many of its words (runs of letters) the reference's text has, and how well a judge
predicts it: another model, by default the shipped one, in nats per character. The held-out text itself is the last row: what is
nearest to it holds up best.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.systems import shipped
from benchmarks.table import table
from trainer import artifact, corpus, network
from trainer.artifact import Version
from trainer.vocabulary import Vocabulary

STREAMS, PROMPT, STRETCH = 64, 100, 500


def main() -> int:
    options = _options()
    text = corpus.SHAKESPEARE.read_bytes().decode()
    known = set(_words(text))
    judge = artifact.read(options.judge) if options.judge else shipped()
    held_out = text[-len(text) // 10 :]
    length = PROMPT + options.characters
    starts = np.linspace(0, len(held_out) - length - 1, STREAMS).astype(int)
    real = [held_out[start : start + length] for start in starts]

    rows: list[dict[str, Any]] = []
    for name, texts in [
        *((str(path), _continued(artifact.read(path), real, options.seed)) for path in options.models),
        ("the text", real),
    ]:
        nats = _nats(judge, texts)
        for first in range(PROMPT, length, STRETCH):
            words = [word for text in texts for word in _words(text[first : first + STRETCH])[1:-1]]  # the ends may be cut
            rows.append(
                {
                    "model": name,
                    "characters": f"{first - PROMPT}-{first - PROMPT + STRETCH}",
                    "known words %": 100 * sum(word in known for word in words) / len(words),
                    "judge's nats": float(nats[:, first - 1 : first - 1 + STRETCH].mean()),
                }
            )
    print(json.dumps(rows, indent=1) if options.json else table(list(rows[0]), [list(row.values()) for row in rows]))
    return 0


def _continued(version: Version, texts: list[str], seed: int) -> list[str]:
    """The texts' first PROMPT characters, gone on with to the texts' lengths at temperature 1."""
    vocabulary, forward, rng = Vocabulary(version.config.vocabulary), network.forward(version.config), np.random.default_rng(seed)
    step = tf.function(lambda states, ids: forward(version.tensors, states, ids), reduce_retracing=True)
    ids = np.stack([vocabulary.encode(text[:PROMPT]) for text in texts])
    logits, states = step(network.zero_states(version.config, len(texts)), tf.constant(ids))
    drawn = [ids]
    for _ in range(len(texts[0]) - PROMPT):
        noisy = logits[:, -1].numpy() + rng.gumbel(size=(len(texts), len(vocabulary)))  # a categorical draw
        drawn.append(noisy.argmax(-1).astype(np.int32)[:, None])
        logits, states = step(states, tf.constant(drawn[-1]))
    return [vocabulary.decode(row.tolist()) for row in np.concatenate(drawn, 1)]


def _nats(judge: Version, texts: list[str]) -> NDArray[np.float32]:
    """Of each character after the first, [texts, characters - 1]."""
    vocabulary, forward = Vocabulary(judge.config.vocabulary), network.forward(judge.config)
    ids = np.stack([vocabulary.encode(text) for text in texts])
    states, found = network.zero_states(judge.config, len(texts)), []
    for first in range(0, ids.shape[1] - 1, STRETCH):  # in parts, so that memory does not grow with the texts
        inputs, targets = ids[:, first : first + STRETCH][:, : ids.shape[1] - 1 - first], ids[:, first + 1 : first + 1 + STRETCH]
        logits, states = forward(judge.tensors, states, tf.constant(inputs))
        found.append(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits).numpy())
    nats: NDArray[np.float32] = np.concatenate(found, 1)
    return nats


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.free_running", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="models/<name>/<version>")
    parser.add_argument("--judge", type=Path, help="models/<name>/<version>; the shipped one if none is given")
    parser.add_argument("--characters", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
