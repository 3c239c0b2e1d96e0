"""The program under test: it asks a model for a story."""

from collections.abc import Iterator

from openai import OpenAI

MODEL = "gpt-4o-mini"


def tell(client: OpenAI, opening: str) -> Iterator[str]:
    """The story's pieces, as they arrive."""
    for chunk in client.completions.create(model=MODEL, prompt=opening, max_tokens=100, stream=True):
        yield chunk.choices[0].text
