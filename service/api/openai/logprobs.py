"""Log-probabilities of characters in the form that OpenAI gives them in chats and responses. Ollama's is the same."""

from typing import Any

from service.api.logprobs import named_logprobs
from service.api.openai.answers import TokenLogprob, TopLogprob
from service.generation.output_queue import Chunk
from trainer.vocabulary import Vocabulary


def token_logprobs(vocabulary: Vocabulary, chunk: Chunk) -> list[TokenLogprob] | None:
    """None if the request asked for none."""
    if chunk.log_probabilities is None:
        return None
    own, top = named_logprobs(vocabulary, chunk.log_probabilities)
    return [
        TokenLogprob(
            **_named(vocabulary.characters[character], value), top_logprobs=[TopLogprob(**_named(*one)) for one in likeliest]
        )
        for character, value, likeliest in zip(chunk.characters, own, top, strict=True)
    ]


def _named(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}
