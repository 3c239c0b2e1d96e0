"""A client that sends requests of all kinds, valid and invalid, and checks each answer."""

import asyncio
import json
import random
from typing import Any

from tests.soak.clients import send

MIXED = ("stream", "stops", "json", "logprobs", "completion", "chat", "chat stream", "score", "leaves", "unknown", "broken")
LONGEST = 3000  # characters of a mixed answer


class Mixed:
    """One client; `errors` holds each answer that was not as expected."""

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._rng = port, random.Random(seed)
        self.requests = 0
        self.busy = 0  # answered 429
        self.left = 0
        self.errors: list[str] = []

    async def send(self) -> None:
        """Sends one request of a random kind and length."""
        kind = self._rng.choice(MIXED)
        path, body, status, expected = self._choose(kind)
        self.requests += 1
        try:
            if kind == "leaves":
                await self._leave(path, body)
                return
            answer = await send(self._port, path, body)
        except (OSError, TimeoutError) as error:
            self.errors.append(f"{kind}: {error!r}")
            return
        if answer.status == 429:
            self.busy += 1
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        elif answer.status != status or expected not in answer.content:
            self.errors.append(f"{kind}: {answer.status} {answer.content[-300:]!r}")

    async def _leave(self, path: str, body: Any) -> None:
        asking = asyncio.create_task(send(self._port, path, body))
        await asyncio.wait([asking], timeout=self._rng.uniform(0, 1))
        self.left += asking.cancel()

    def _choose(self, kind: str) -> tuple[str, Any, int, bytes]:
        """(Path, body, expected status, what the answer must contain.)"""
        rng = self._rng
        start = "".join(rng.choices("abcdefgh ,\n", k=rng.randint(1, 300)))
        length = round(LONGEST ** rng.random())
        text = {"start_string": start, "num_generate": length, "temperature": rng.uniform(0, 1.5)}
        prompt = {"prompt": start, "max_tokens": length, "n": rng.randint(1, 4)}
        chat = {"messages": [{"role": "user", "content": start}], "max_tokens": length, "n": rng.randint(1, 3)}
        match kind:
            case "stream" | "leaves":
                return "/generate", text | {"stream": True}, 200, b"event: done"
            case "stops":
                return "/generate", text | {"stream": True, "stop": ["\n\n", "the"]}, 200, b"event: done"
            case "json":
                return "/generate", text, 200, b'"finish_reason":"length"'
            case "logprobs":
                return "/generate", text | {"logprobs": 3}, 200, b'"likeliest"'
            case "completion":
                return "/v1/completions", prompt, 200, b'"total_tokens"'
            case "chat":
                return "/v1/chat/completions", chat, 200, b'"total_tokens"'
            case "chat stream":
                return "/v1/chat/completions", chat | {"stream": True}, 200, b"data: [DONE]"
            case "score":
                return "/score", {"text": start * 3}, 200, b'"perplexity"'
            case "unknown":
                return "/generate", text | {"model": "hamlet"}, 404, b'"model_not_found"'
            case _:
                return "/generate", json.dumps(text)[:-1].encode(), 422, b'"invalid_json"'
