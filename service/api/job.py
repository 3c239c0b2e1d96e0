"""An accepted request: its model, and the completions that the engine generates for it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, NamedTuple, Self

from fastapi import Request

from service.api.disconnect import cancel_on_disconnect
from service.api.pacing import PacedReader
from service.conversation import Reply
from service.generation.output_queue import Chunk
from service.generation.request import Generation
from service.generation.scheduler import QueueFull
from service.registry import Model
from service.weather import RequestFaults
from trainer.vocabulary import Vocabulary

WAIT_FOR_ROOM = 0.05  # seconds between two attempts to submit a completion


class Completion(NamedTuple):
    """One continuation of a prompt."""

    prompt: str  # as it was read, without skipped characters
    generation: Generation
    reader: PacedReader


class Job:
    """The completions of one request. `submit` first; leaving the `with` block cancels them, so no slot outlives its request."""

    def __init__(
        self,
        request: Request,
        model: Model,
        generations: Sequence[tuple[str, Generation]],
        *,
        vocabulary: Vocabulary | None = None,
        calls: bool = False,
        pace: float | None = None,
        skip: int = 0,
        at_once: int | None = None,
    ) -> None:
        """generations: each with its prompt, as it was read. vocabulary: of the texts, if a constraint adds characters to the
        model's. calls: the texts are calls of tools (see `service.conversation`). pace, skip: see `PacedReader`. at_once: the
        most completions that the engine has at a time; None: all. Such a job is collected, not streamed.
        """
        self.model, self.vocabulary, self.calls = model, vocabulary or model.vocabulary, calls
        self.sent: int | None = None  # characters streamed so far; None: the answer is no stream
        self.cut_by: Literal["cancelled", "error", "timeout"] | None = None  # why the answer ended before its texts did
        self._request = request
        self._faults: RequestFaults | None = getattr(request.state, "faults", None)
        registry = request.app.state.registry
        self.completions = [
            Completion(prompt, generation, PacedReader(generation, skip=skip, pace=pace, stopped=lambda: registry.stop_reason))
            for prompt, generation in generations
        ]
        self._at_once = at_once or len(self.completions)
        self._submitted: list[Completion] | None = None  # None: before `submit`, and once the job has ended

    def submit(self) -> Self:
        """Hands the first `at_once` completions to the engine, or none.

        Raises QueueFull, EngineStopped, PlannedFault or InvalidPlan.
        """
        if self._faults:
            self._faults.begin(self.model.config.name, self.num_prompt + sum(c.generation.num_generate for c in self.completions))
            for i, completion in enumerate(self.completions):
                completion.reader.delays = self._faults.delays(i)
        first = self.completions[: self._at_once]
        self.model.engine.submit(*(completion.generation for completion in first))
        self._submitted = first
        self._request.state.job = self  # for the request log
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        submitted, self._submitted = self._submitted or [], None
        for completion in submitted:
            self.model.engine.cancel(completion.generation)

    async def collect(self) -> list[Chunk]:
        """All characters of each completion. Raises the error of one of them, or ClientDisconnect."""
        chunks = await cancel_on_disconnect(self._read_all(), self._request.receive)
        if self._faults and self._faults.fault:
            self._faults.fault_at = self._faults.fault.at
        return chunks

    def stream(self) -> AsyncGenerator[tuple[int, Chunk, bool], None]:
        """(Index of a completion, new characters, whether that was its end), in order of arrival.

        A chunk without characters that is no end came from `wake`. Raises the error of one of them.
        """
        chunks = self._merged() if len(self.completions) > 1 else self._single()
        return self._faults.split(chunks, len(self.completions)) if self._faults and self._faults.fault else chunks

    def wake(self) -> None:
        """Makes `stream` yield, so that the connection can be kept alive."""
        for completion in self.completions:
            if not completion.reader.ended:
                completion.generation.output.wake()
                return

    def reply(self, i: int) -> Reply:
        """A reader that divides completion `i` into texts and calls. Equal requests with equal seeds give calls of equal ids."""
        prompt, generation = self.completions[i].prompt, self.completions[i].generation

        def id_of(call: int) -> str:
            made_from = f"{generation.seed} {generation.choice} {call} {prompt}"
            return f"call_{hashlib.sha256(made_from.encode()).hexdigest()[:24]}"

        return Reply(self.calls, id_of)

    @property
    def num_prompt(self) -> int:
        """Characters of all prompts; a shared one counts once."""
        return sum(prompt.num_characters for prompt in {completion.generation.prompt for completion in self.completions})

    @property
    def num_cached(self) -> int:
        """Those of them whose state was in the prompt cache."""
        return sum(prompt.num_cached for prompt in {completion.generation.prompt for completion in self.completions})

    @property
    def num_emitted(self) -> int:
        return sum(completion.generation.num_emitted for completion in self.completions)

    @property
    def log_fields(self) -> dict[str, Any]:
        """What the request log says of it. Times are those of the slowest completion."""
        config, generations = self.model.config, [completion.generation for completion in self.completions]
        reasons = {self.cut_by} if self.cut_by else {generation.output.finish_reason for generation in generations}
        fields: dict[str, Any] = {
            "model": config.name,
            "version": config.version,
            "prompt_characters": self.num_prompt,
            "generated_characters": self.num_emitted,
            "sent_characters": self.sent if self.sent is not None else 0 if self.cut_by else self.num_emitted,
            "finish_reasons": ", ".join(sorted(map(str, reasons))),
        }
        times = [generation.times(time.perf_counter()) for generation in generations]
        for name in ("queue", "first", "decode"):
            if known := [seconds for one in times if (seconds := getattr(one, name)) is not None]:
                fields[f"{name}_seconds"] = round(max(known), 6)
        return fields

    async def _read_all(self) -> list[Chunk]:
        if len(self.completions) == 1:
            return [await self.completions[0].reader.read_all()]
        chunks, rest = [Chunk([])] * len(self.completions), iter(enumerate(self.completions))

        async def read_some() -> None:
            for i, completion in rest:
                if i >= self._at_once:
                    await self._submit_later(completion)
                chunks[i] = await completion.reader.read_all()

        await asyncio.gather(*(read_some() for _ in range(self._at_once)))
        return chunks

    async def _submit_later(self, completion: Completion) -> None:
        """Submits a further completion when there is room. Raises EngineStopped."""
        while self._submitted is not None:
            try:
                self.model.engine.submit(completion.generation)
            except QueueFull:
                await asyncio.sleep(WAIT_FOR_ROOM)
            else:
                self._submitted.append(completion)
                return
        raise asyncio.CancelledError  # the job has ended

    async def _single(self) -> AsyncGenerator[tuple[int, Chunk, bool], None]:
        reader = self.completions[0].reader
        while not reader.ended:
            chunk = await reader.read()
            yield 0, chunk, reader.ended

    async def _merged(self) -> AsyncGenerator[tuple[int, Chunk, bool], None]:
        arrived: asyncio.Queue[tuple[int, Chunk, bool] | Exception] = asyncio.Queue()

        async def follow(i: int, reader: PacedReader) -> None:
            try:
                while not reader.ended:
                    arrived.put_nowait((i, await reader.read(), reader.ended))
            except Exception as error:
                arrived.put_nowait(error)

        following = [asyncio.create_task(follow(i, completion.reader)) for i, completion in enumerate(self.completions)]
        try:
            num_running = len(following)
            while num_running:
                found = await arrived.get()
                if isinstance(found, Exception):
                    raise found
                num_running -= found[2]
                yield found
        finally:
            for task in following:
                task.cancel()
