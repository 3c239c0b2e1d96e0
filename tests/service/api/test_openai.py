"""OpenAI's operations, by the clients people have: openai's own, synchronous and not, and LangChain's."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from service.api.openai import completions
from service.generation.sampling import Sampling
from tests.support import ARCHITECTURE, ENDLESS, VOCABULARY, random_tensors, reference_text, wait_until
from trainer.vocabulary import Vocabulary


@pytest.fixture
def peer(client: httpx.Client) -> Any:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as peer:
        yield peer


def native(client: httpx.Client, prompt: str, seed: int, characters: int, **fields: Any) -> str:
    body = {"start_string": prompt, "seed": seed, "num_generate": characters, "echo": False, **fields}
    return str(client.post("/generate", json=body).json()["text"])


def test_a_completion_is_what_generate_gives(client: httpx.Client, peer: OpenAI) -> None:
    answer = peer.completions.create(model="other", prompt="Hark! ", max_tokens=50, seed=3, temperature=0.8, top_p=0.9)
    assert answer.object == "text_completion"
    assert answer.model == "other"
    assert [choice.index for choice in answer.choices] == [0]
    assert answer.choices[0].text == native(client, "Hark! ", 3, 50, model="other", temperature=0.8, top_p=0.9)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 50, 56)
    assert answer.system_fingerprint == peer.completions.create(model="other", prompt="a").system_fingerprint


def test_defaults_are_sixteen_characters_at_temperature_one(client: httpx.Client, peer: OpenAI) -> None:
    assert peer.completions.create(model="tiny", prompt="a", seed=1).choices[0].text == native(client, "a", 1, 16)


def test_several_prompts_and_several_of_each(client: httpx.Client, peer: OpenAI) -> None:
    fields: Any = {"model": "tiny", "prompt": ["one", "another"], "n": 3, "max_tokens": 20}
    answer = peer.completions.create(**fields, seed=5)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert answer.choices[0].text == native(client, "one", 5, 20)
    assert [choice.text for choice in peer.completions.create(**fields, seed=5).choices] == [c.text for c in answer.choices]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 120)


def test_extensions_reach_the_sampling(client: httpx.Client, peer: OpenAI) -> None:
    extra = {"top_k": 4, "min_p": 0.01, "allowed_characters": "abcdef"}
    answer = peer.completions.create(model="tiny", prompt="a", max_tokens=40, seed=2, extra_body=extra)
    assert answer.choices[0].text == native(client, "a", 2, 40, **extra)


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_is_the_same_in_parts(client: httpx.Client, peer: OpenAI, n: int) -> None:
    texts, reasons, usage = [""] * n, [None] * n, None
    chunks = peer.completions.create(
        model="tiny", prompt="To be", max_tokens=60, seed=9, n=n, echo=True, stream=True, stream_options={"include_usage": True}
    )
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]  # type: ignore[call-overload]
    whole = peer.completions.create(model="tiny", prompt="To be", max_tokens=60, seed=9, n=n, echo=True)
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0] == "To be" + native(client, "To be", 9, 60)
    assert reasons == ["length"] * n
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 60 * n)


def test_the_asynchronous_client_gets_the_same(client: httpx.Client) -> None:
    async def both() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none") as peer:
            whole = await peer.completions.create(model="tiny", prompt="a", max_tokens=30, seed=1)
            stream = await peer.completions.create(model="tiny", prompt="a", max_tokens=30, seed=1, stream=True)
            return whole.choices[0].text, "".join([chunk.choices[0].text async for chunk in stream])

    assert set(asyncio.run(both())) == {native(client, "a", 1, 30)}


def test_stop_strings_end_a_completion(client: httpx.Client, peer: OpenAI) -> None:
    text = native(client, "a", 3, 200)
    answer = peer.completions.create(model="tiny", prompt="a", max_tokens=200, seed=3, stop=[text[50:54], "no such"])
    assert answer.choices[0].text == text[: text.index(text[50:54])]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_prompt_and_continuation(client: httpx.Client, peer: OpenAI, stream: bool) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "Hark", "max_tokens": 12, "seed": 4, "logprobs": 3, "echo": True}
    tokens: list[str] = []
    own: list[float | None] = []
    offsets: list[int] = []
    top: list[dict[str, float] | None] = []
    parts = peer.completions.create(**fields, stream=True) if stream else [peer.completions.create(**fields)]
    for part in parts:
        found = part.choices[0].logprobs
        if found:
            tokens += found.tokens or []
            own += found.token_logprobs or []
            top += found.top_logprobs or []
            offsets += found.text_offset or []
    text = "Hark" + native(client, "Hark", 4, 12)
    assert "".join(tokens) == text
    assert offsets == list(range(16))
    scored = client.post("/score", json={"text": text}).json()["logprobs"]
    assert (own[0], top[0]) == (None, None)
    assert own[1:] == pytest.approx(scored[1:], abs=1e-4)
    for token, value, likeliest in zip(tokens[1:], own[1:], top[1:], strict=True):
        assert likeliest is not None
        assert value is not None
        assert likeliest[token] == value
        assert 3 <= len(likeliest) <= 4
        assert max(likeliest.values()) >= value


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_prompt_is_read_and_scored_once_for_several_streams(peer: OpenAI, read: list[int], max_tokens: int) -> None:
    prompt = "To be or not to be " * 40
    fields: Any = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "echo": True, "logprobs": 1, "n": 4}
    told: dict[int, list[float | None]] = {}
    for part in peer.completions.create(**fields, stream=True):
        for choice in part.choices:
            found = choice.logprobs.token_logprobs if choice.logprobs else None
            told.setdefault(choice.index, []).extend(found or [])
    assert sum(read) == len(prompt) - 1
    for choice in peer.completions.create(**fields).choices:
        assert choice.logprobs is not None
        assert len(told[choice.index]) == len(prompt) + max_tokens
        assert told[choice.index][: len(prompt)] == (choice.logprobs.token_logprobs or [])[: len(prompt)]


def test_no_characters_with_echo_scores_the_prompt(client: httpx.Client, peer: OpenAI) -> None:
    for prompt in ("To be or not", "a"):
        choice = peer.completions.create(model="tiny", prompt=prompt, max_tokens=0, echo=True, logprobs=0).choices[0]
        assert choice.text == prompt
        assert choice.logprobs is not None
        found = choice.logprobs.token_logprobs or []
        assert found[0] is None
        assert found[1:] == pytest.approx(client.post("/score", json={"text": prompt}).json()["logprobs"][1:], abs=1e-4)


def test_a_chat_is_a_play_and_the_reply_ends_where_the_next_speaker_would_begin(client: httpx.Client, peer: OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "A room in the castle."},
        {"role": "user", "content": [{"type": "text", "text": "Who art "}, {"type": "text", "text": "thou?"}]},
        {"role": "assistant", "content": "Nay!"},
        {"role": "user", "name": "Romeo", "content": "Speak."},
    ]
    text = "SYSTEM:\nA room in the castle.\n\nUSER:\nWho art thou?\n\nASSISTANT:\nNay!\n\nROMEO:\nSpeak.\n\nASSISTANT:\n"
    answer = peer.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=40, seed=6)
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content == native(client, text, 6, 40, stop="\n\n")
    # With two line breaks the likeliest, the next speaker would begin at once.
    ended = peer.chat.completions.create(model="tiny", messages=messages, seed=6, extra_body={"allowed_characters": "\n"})
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")


def test_a_streamed_chat_has_the_role_first_and_log_probabilities_where_asked(peer: OpenAI) -> None:
    fields: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 30, "seed": 2}
    whole = peer.chat.completions.create(**fields, logprobs=True, top_logprobs=2, n=2)
    chunks = list(peer.chat.completions.create(**fields, logprobs=True, top_logprobs=2, n=2, stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    for index in range(2):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert all(choice.delta.role is None for choice in mine[1:])
        assert "".join(choice.delta.content or "" for choice in mine) == whole.choices[index].message.content
        assert mine[-1].finish_reason == whole.choices[index].finish_reason == "length"
        told = [entry for choice in mine if choice.logprobs for entry in choice.logprobs.content or []]
        expected = whole.choices[index].logprobs
        assert expected is not None
        assert told == expected.content
        assert all(len(entry.top_logprobs) == 2 and bytes(entry.bytes or []).decode() == entry.token for entry in told)


def test_characters_that_a_model_lacks_are_skipped_in_a_chat(peer: OpenAI) -> None:
    known: Any = [{"role": "user", "content": "What is ?"}]
    unknown: Any = [{"role": "user", "content": "What is 2+2?"}]
    one, other = (peer.chat.completions.create(model="tiny", messages=m, seed=1, max_tokens=20) for m in (known, unknown))
    assert one.choices[0].message == other.choices[0].message
    with pytest.raises(openai.BadRequestError, match="'2'"):
        peer.chat.completions.create(model="tiny", messages=unknown, extra_body={"on_unknown": "error"})


def test_a_reply_that_would_be_too_long_is_refused_and_a_reply_can_be_sent_back(peer: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        peer.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=10**10)
    assert raised.value.param == "max_completion_tokens"


def test_models_are_listed_and_found(peer: OpenAI) -> None:
    assert [model.id for model in peer.models.list()] == ["other", "tiny"]
    assert peer.models.retrieve("tiny").created == 1767225600
    with pytest.raises(openai.NotFoundError, match="no model 'absent'"):
        peer.models.retrieve("absent")


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "absent"}, openai.NotFoundError, "model"),
        ({"prompt": "voilà", "extra_body": {"on_unknown": "error"}}, openai.BadRequestError, "prompt"),
        ({"prompt": ["a", ""]}, openai.BadRequestError, None),
        ({"prompt": [1, "a"]}, openai.BadRequestError, "prompt.1"),
        ({"prompt": [1, len(VOCABULARY)]}, openai.BadRequestError, "prompt"),
        ({"prompt": [[1], [-1]]}, openai.BadRequestError, "prompt"),
        ({"prompt": "a" * 10_001}, openai.BadRequestError, "prompt"),
        ({"suffix": "end"}, openai.BadRequestError, "suffix"),
        ({"best_of": 2}, openai.BadRequestError, "best_of"),
        ({"presence_penalty": -2.1}, openai.BadRequestError, "presence_penalty"),
        ({"logit_bias": {len(VOCABULARY): 1}}, openai.BadRequestError, "logit_bias"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"n": 200}, openai.BadRequestError, "n"),
        ({"max_tokens": 10**10}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": ENDLESS["num_generate"] // 2, "n": 3}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 10_000, "logprobs": 20}, openai.BadRequestError, "logprobs"),
        ({"prompt": ["a" * 1000] * 10, "max_tokens": 0, "echo": True, "logprobs": 20}, openai.BadRequestError, "logprobs"),
        ({"prompt": 5}, openai.BadRequestError, "prompt"),
        ({"extra_body": {"topk": 3}}, openai.BadRequestError, "topk"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_reaches_the_client_as_its_own_error(
    peer: OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], param: str | None, stream: bool
) -> None:
    with pytest.raises(error) as raised:
        peer.completions.create(**{"model": "tiny", "prompt": "a", "stream": stream, **fields})
    assert raised.value.code
    if param:
        assert raised.value.param == param


def test_beyond_the_queue_is_a_rate_limit_error_and_all_choices_come_or_none(peer: OpenAI, engine: Any) -> None:
    with peer.completions.create(model="tiny", prompt="a", max_tokens=ENDLESS["num_generate"], stream=True) as stream:
        next(stream)
        with pytest.raises(openai.RateLimitError):  # 4 slots, 8 places in the queue
            peer.completions.create(model="tiny", prompt="a", n=12, max_tokens=100)
        assert (engine.running, engine.waiting) == (1, 0)
    wait_until(lambda: (engine.running, engine.waiting) == (0, 0))
    assert len(peer.completions.create(model="tiny", prompt="a", n=12, max_tokens=100).choices) == 12
    with pytest.raises(openai.BadRequestError, match="limit of 12"):  # however often it is tried
        peer.completions.create(model="tiny", prompt="a", n=13, max_tokens=100)


def test_a_client_that_leaves_frees_all_its_slots(peer: OpenAI, engine: Any) -> None:
    with peer.completions.create(model="tiny", prompt="a", n=4, max_tokens=ENDLESS["num_generate"] // 4, stream=True) as stream:
        next(stream)
        assert engine.running == 4
    wait_until(lambda: engine.running == 0)


def test_an_error_in_mid_stream_is_an_event_and_done_comes_last(
    client: httpx.Client, peer: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = completions._choice, iter([True])

    def failing(*given: Any) -> Any:
        if next(made, None) is None:
            raise RuntimeError("a fault of the test")
        return make(*given)

    monkeypatch.setattr(completions, "_choice", failing)
    body: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": ENDLESS["num_generate"], "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        first, *_, error, last = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert json.loads(first)["choices"]
    assert json.loads(error)["error"]["code"] == "internal_error"
    assert last == "[DONE]"
    made = iter([True])
    with pytest.raises(openai.APIError, match="the server failed"):
        list(peer.completions.create(**body))


PENALTIES: dict[str, Any] = {"presence_penalty": 1.5, "frequency_penalty": 0.3, "extra_body": {"repetition_penalty": 1.3}}


def test_penalties_are_those_of_the_reference_streamed_or_not_and_of_each_choice_alone(peer: OpenAI) -> None:
    sampling = Sampling(presence_penalty=1.5, frequency_penalty=0.3, repetition_penalty=1.3)
    expected = reference_text(ARCHITECTURE, random_tensors(ARCHITECTURE, seed=len("tiny")), "aab", 300, sampling, seed=4)
    fields: dict[str, Any] = {"model": "tiny", "prompt": "aab", "seed": 4, "max_tokens": 300, **PENALTIES}
    both = peer.completions.create(**fields, n=2)
    assert both.choices[0].text == expected[3:]
    assert "".join(part.choices[0].text for part in peer.completions.create(**fields, stream=True)) == expected[3:]
    alone = peer.completions.create(**fields, n=2, stream=True)
    assert "".join(part.choices[0].text for part in alone if part.choices[0].index == 1) == both.choices[1].text
    plain = peer.completions.create(model="tiny", prompt="aab", seed=4, max_tokens=300).choices[0].text
    assert max(map(plain.count, plain)) > 2 * max(map(expected.count, expected))


def test_a_logit_bias_demands_or_bans_a_token(peer: OpenAI) -> None:
    vocabulary = Vocabulary(VOCABULARY)
    fields: dict[str, Any] = {"model": "tiny", "prompt": "a", "seed": 4, "max_tokens": 200}
    (wanted,) = vocabulary.encode("é").tolist()
    assert peer.completions.create(**fields, logit_bias={str(wanted): 100}).choices[0].text == "é" * 200
    free = peer.completions.create(**fields).choices[0].text
    banned = vocabulary.encode(free[:1] + free[5] + "é").tolist()
    text = peer.completions.create(**fields, logit_bias={str(token): -100 for token in banned}).choices[0].text
    assert not set(text) & set(vocabulary.decode(banned))
