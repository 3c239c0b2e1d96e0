"""Haystack's generator for OpenAI's chat completions."""

from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.utils import Secret

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, embedding, reply


def test_a_generator_returns_the_text_at_once_and_streamed(server: Server) -> None:
    parts: list[str] = []

    def collect(chunk: StreamingChunk) -> None:
        parts.append(chunk.content)

    generator = OpenAIChatGenerator(
        api_base_url=server.v1,
        api_key=Secret.from_token(KEY),
        model=server.model,
        generation_kwargs={"max_tokens": LENGTH, "seed": SEED},
    )
    question = [ChatMessage.from_user(QUESTION)]
    assert generator.run(question)["replies"][0].text == reply(server)
    assert generator.run(question, streaming_callback=collect)["replies"][0].text == "".join(parts) == reply(server)


def test_an_embedder_returns_the_services_vector(server: Server) -> None:
    embedder = OpenAITextEmbedder(api_base_url=server.v1, api_key=Secret.from_token(KEY), model=server.model)
    assert embedder.run(QUESTION)["embedding"] == embedding(server, QUESTION)
