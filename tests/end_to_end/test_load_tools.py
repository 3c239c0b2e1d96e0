"""Load and evaluation tools against the server as it is started. locust runs; of the others, which are large, the requests are sent
as they were recorded, each with what its tool needs of the answer.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import ROOT, service

USAGE = {"include_usage": True}
CONTINUOUS = USAGE | {"continuous_usage_stats": True}
RUN = "rstuvwxyz !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz !$&',-.3:;?ABCDEFGHIJKLMNO"
WORDS = "? ? m? Finish medical want almost away u"
IDS = [30, 27, 25, 17, 27, 10, 0, 27, 6, 1, 57, 46, 43, 1, 42, 53, 58, 46]


UNTIL_ALL = """
import sys
import gevent
from locust import events
sys.path.insert(0, {examples!r})
from locustfile import Reader

waited_for = {names!r}

@events.init.add_listener
def stop_once_all_were_asked(environment, **_):
    @environment.events.request.add_listener
    def asked(name, **_):
        waited_for.discard(name)
        if not waited_for:
            gevent.spawn(environment.runner.quit)
"""


def said(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


COMPLETIONS: dict[str, dict[str, Any]] = {
    "inference-perf": {"prompt": "1 2 3 10", "max_tokens": 30, "ignore_eos": True, "stream": True, "stream_options": USAGE},
    "vllm bench serve": {
        "prompt": RUN, "repetition_penalty": 1.0, "max_tokens": 32, "logprobs": None, "stream": True, "stream_options": USAGE,
        "ignore_eos": True,
    },
    "guidellm": {
        "prompt": WORDS, "stream": True, "stream_options": CONTINUOUS, "max_tokens": 32, "ignore_eos": True,
    },
    "aiperf": {"prompt": "ey Is south the chamber", "stream": True, "max_tokens": 32, "stream_options": USAGE},
}  # fmt: skip
CHATS: dict[str, dict[str, Any]] = {
    "inference-perf": {"messages": said("mock prompt 1"), "max_tokens": 30, "ignore_eos": True, "stream": True},
    "vllm bench serve": {
        "messages": said([{"type": "text", "text": RUN}]), "max_completion_tokens": 32, "stream": True,
        "stream_options": USAGE, "ignore_eos": True,
    },
    "guidellm": {
        "messages": said([{"type": "text", "text": WORDS}]), "max_completion_tokens": 32, "ignore_eos": True,
        "stream": True, "stream_options": CONTINUOUS,
    },
    "aiperf": {
        "messages": said("y gentleman"), "max_completion_tokens": 32, "min_tokens": 32, "stream": True,
        "stream_options": USAGE,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with service() as (_, client):
        yield client


def counted(client: httpx.Client, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """(Characters in a stream's chunks, its usage)."""
    with client.stream("POST", path, json={"model": "shakespeare", **body}) as response:
        assert response.status_code == 200, response.read()
        data = [line[6:] for line in "".join(response.iter_text()).split("\n") if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(one) for one in data[:-1]]
    texts = [choice.get("text") or choice.get("delta", {}).get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    return sum(map(len, texts)), chunks[-1].get("usage")


@pytest.mark.parametrize("tool", COMPLETIONS)
def test_a_tools_completion_has_the_length_it_asks_for(client: httpx.Client, tool: str) -> None:
    body = COMPLETIONS[tool]
    characters, usage = counted(client, "/v1/completions", body)
    assert usage is not None
    assert characters == usage["completion_tokens"] == body["max_tokens"]


@pytest.mark.parametrize("tool", CHATS)
def test_a_tools_chat_has_the_length_it_asks_for(client: httpx.Client, tool: str) -> None:
    body = CHATS[tool]
    characters, usage = counted(client, "/v1/chat/completions", body)
    assert characters == body.get("max_tokens", body.get("max_completion_tokens"))
    assert (usage and usage["completion_tokens"]) == (characters if "stream_options" in body else None)


def test_lm_eval_scores_a_continuation_of_tokens(client: httpx.Client) -> None:
    body = {"prompt": [IDS, IDS[:9]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = client.post("/v1/completions", json={"model": "shakespeare", **body}, headers={"Authorization": "Bearer"}).json()
    for choice, ids in zip(answer["choices"], (IDS, IDS[:9]), strict=True):
        assert len(choice["logprobs"]["token_logprobs"]) == len(choice["logprobs"]["top_logprobs"]) == len(ids) + 1
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert all(value < 0 for value in choice["logprobs"]["token_logprobs"][1:])


def test_what_tools_look_for_before_they_begin(client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    assert client.head("/metrics").status_code == 200
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == model["root"] == "shakespeare"
    found = client.get("/models/shakespeare/tokenizer.json").json()
    ids = client.post("/vectorize", json={"text": "First Citizen"}).json()["ids"]
    assert [found["model"]["vocab"][character] for character in "First Citizen"] == ids
    assert client.get("/models/shakespeare/tokenizer_config.json").json()["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_locust_runs_its_example_without_a_failure(client: httpx.Client, tmp_path: Path) -> None:
    names = {"/generate", "/generate streamed", "/v1/completions", "/v1/chat/completions"}
    (tmp_path / "until_all.py").write_text(UNTIL_ALL.format(examples=str(ROOT / "examples"), names=names))
    command = [
        *(sys.executable, "-m", "locust", "--headless", "-f", str(tmp_path / "until_all.py"), "-u", "4", "-r", "4"),
        *("-t", "100s", "--host", str(client.base_url).rstrip("/"), "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert {row["name"] for row in rows if row["num_requests"]} == names
    assert [row["num_failures"] for row in rows] == [0] * 4
