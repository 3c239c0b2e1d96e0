"""What a framework must return: what a plain request gets for the same messages, seed and length."""

from typing import Any

import httpx

from tests.clients.processes import Server

QUESTION = "Who art thou?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
KEY = "none"  # the server has no keys, and clients want one
LENGTH, SEED = 60, 7


def reply(server: Server, messages: list[Any] = MESSAGES, **fields: Any) -> str:
    body = {"model": server.model, "messages": messages, "max_tokens": LENGTH, "seed": SEED, **fields}
    return str(_post(server, "chat/completions", body)["choices"][0]["message"]["content"])


def continuation(server: Server, prompt: str, **fields: Any) -> str:
    body = {"model": server.model, "prompt": prompt, "max_tokens": LENGTH, "seed": SEED, **fields}
    return str(_post(server, "completions", body)["choices"][0]["text"])


def embedding(server: Server, text: str) -> list[float]:
    return list(_post(server, "embeddings", {"model": server.model, "input": text})["data"][0]["embedding"])


def _post(server: Server, path: str, body: dict[str, Any]) -> Any:
    response = httpx.post(f"{server.v1}/{path}", json=body, timeout=60)
    response.raise_for_status()
    return response.json()
