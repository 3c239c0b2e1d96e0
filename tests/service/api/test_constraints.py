"""Texts restricted by regular expressions, choices and JSON Schemas, over HTTP."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from fastapi import FastAPI

from service.generation.constraints import compiler
from service.generation.constraints.compiler import Compiler, Constraint
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.scheduler import QueueFull
from tests.sse import events
from tests.support import VOCABULARY, at_once, stream
from trainer.vocabulary import Vocabulary

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["kind", '"sly"', "é語"]}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def generated(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/generate", json={"start_string": "ROMEO: ", "echo": False, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


def refused(client: httpx.Client, **fields: Any) -> tuple[str, str]:
    """(The field, the message.)"""
    response = client.post("/generate", json={"start_string": "ROMEO: ", **fields})
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_a_text_matches_its_regular_expression_from_end_to_end(client: httpx.Client, temperature: float) -> None:
    """The model knows letters and no digits."""
    expression = r"[a-z]{2,6} is [0-9]+(\.[0-9]{1,2})?( é|!)"
    texts = {generated(client, regex=expression, seed=seed, temperature=temperature)["text"] for seed in range(20)}
    assert all(re.fullmatch(expression, text) for text in texts), texts
    assert (len(texts) > 10) == (temperature > 0)


def test_a_set_that_names_no_characters_holds_those_of_the_model(client: httpx.Client) -> None:
    texts = [generated(client, regex=".{30}[0-9][^a]{30}", seed=seed)["text"] for seed in range(5)]
    assert {*"".join(text[:30] + text[31:] for text in texts)} <= {*VOCABULARY}
    assert "characters that it does not name" in refused(client, regex="[\\u0400-\\u0fff]")[1]


@pytest.mark.slow
def test_every_choice_is_reached_even_one_that_begins_another(client: httpx.Client) -> None:
    choices = ["12", "1234", "{}", "7 é"]
    found = [generated(client, choices=choices, seed=seed) for seed in range(100)]
    assert {answer["text"] for answer in found} == {*choices}
    assert {answer["finish_reason"] for answer in found} == {"stop"}


def test_json_is_valid_under_its_schema(client: httpx.Client) -> None:
    answers = [generated(client, json_schema=PERSON, seed=seed) for seed in range(30)]
    for answer in answers:
        jsonschema.validate(json.loads(answer["text"]), PERSON)
        assert answer["finish_reason"] == "stop"
        assert answer["usage"]["generated_characters"] == len(answer["text"])
    assert len({answer["text"] for answer in answers}) == 30
    assert generated(client, json_schema=json.dumps(PERSON), seed=3)["text"] == answers[3]["text"], "as its text, too"


def test_any_object_is_one(client: httpx.Client) -> None:
    assert all(isinstance(json.loads(generated(client, json_object=True, seed=seed)["text"]), dict) for seed in range(20))


def test_json_is_whole_however_little_it_may_have(client: httpx.Client) -> None:
    """Down to the shortest answer. One character less is refused, with the number."""
    field, message = refused(client, json_schema=PERSON, num_generate=1)
    assert field == "json_schema"
    shortest = int(re.findall(r"the shortest answer has (\d+) characters", message)[0])
    for extra in range(12):
        answer = generated(client, json_schema=PERSON, num_generate=shortest + extra, seed=extra)
        jsonschema.validate(json.loads(answer["text"]), PERSON)
        assert answer["finish_reason"] == "stop"
    assert refused(client, json_schema=PERSON, num_generate=shortest - 1)[0] == "json_schema"


def test_a_text_that_could_go_on_ends_by_its_length(client: httpx.Client) -> None:
    answer = generated(client, regex="[a-z]+", num_generate=5, temperature=0)
    assert (len(answer["text"]), answer["finish_reason"]) == (5, "length")
    shorter = [generated(client, regex="[a-z]+", num_generate=200, seed=seed) for seed in range(5)]
    assert {answer["finish_reason"] for answer in shorter} == {"stop"}, "it ends by itself as often as a letter is drawn by chance"


def test_a_seed_gives_the_same_text_streamed_and_among_others(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "ROMEO: ", "json_schema": PERSON, "seed": 7, "echo": False}
    alone = generated(client, **body)["text"]
    assert "".join(event.data["text"] for event in stream(client, **body)[:-1]) == alone
    bodies = [body, *({"start_string": "a" * n, "num_generate": 50 + n} for n in range(1, 6)), body]
    for streamed in (True, False):
        texts = asyncio.run(at_once(str(client.base_url), bodies, streamed=streamed))
        assert {text.removeprefix("ROMEO: ") for text in (texts[0][0], texts[-1][0])} == {alone}


def test_a_stream_is_resumed_in_the_middle_of_its_json(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "ROMEO: ", "json_schema": PERSON, "seed": 7, "pace": 2000}
    whole = stream(client, **body)
    middle = len(whole) // 2
    headers = {"Last-Event-ID": str(whole[middle].id)}
    with client.stream("POST", "/generate", json={**body, "stream": True}, headers=headers) as response:
        rest = list(events(response.iter_bytes()))
    texts = ["".join(event.data.get("text", "") for event in part) for part in (whole[: middle + 1], rest, whole)]
    assert texts[0] + texts[1] == texts[2]
    with client.stream(
        "POST", "/generate", json={**body, "regex": "a", "json_schema": None, "stream": True}, headers=headers
    ) as other:
        assert other.status_code == 422, "another constraint is another request"


def test_the_network_does_not_see_the_characters_that_it_does_not_know(client: httpx.Client) -> None:
    """A text goes on from a state token as if only the others had been read."""
    token = generated(client, regex="abc 123 de4", return_state=True)["state"]
    after = generated(client, start_string=None, state=token, seed=1, num_generate=50)["text"]
    assert after == generated(client, start_string="ROMEO: abc  de", seed=1, num_generate=50)["text"]


def test_log_probabilities_are_those_of_the_characters_that_the_network_knows(client: httpx.Client) -> None:
    answer = generated(client, regex="ab1c", logprobs=2)
    assert [entry["character"] for entry in answer["logprobs"]] == [*"ab1c"]
    values = [entry["logprob"] for entry in answer["logprobs"]]
    assert values[2] == -9999
    scored = client.post("/score", json={"text": "ROMEO: abc"}).json()["logprobs"][-3:]
    np.testing.assert_allclose([values[0], values[1], values[3]], scored, rtol=1e-5)


def test_stop_strings_may_cut_it_and_may_hold_characters_that_the_model_lacks(client: httpx.Client) -> None:
    answer = generated(client, regex="abc 12[0-9] de", stop=["12"])
    assert (answer["text"], answer["finish_reason"]) == ("abc ", "stop")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"regex": "a("}, "regex", "missing"),
        ({"regex": r"(a)\1"}, "regex", "back"),
        ({"regex": r"a(?=b)"}, "regex", "look"),
        ({"regex": "(a{1,1000}){1,1000}b"}, "regex", "too large"),
        ({"regex": "a", "choices": ["b"]}, "choices", "cannot be combined with regex"),
        ({"choices": []}, "choices", "at least 1"),
        ({"choices": [""]}, "choices.0", "at least 1"),
        ({"json_schema": {"type": "number", "minimum": 3, "maximum": 2}}, "json_schema", ""),
        ({"json_schema": "{"}, "json_schema", "no JSON object"),
        ({"json_schema": {"not": {}}}, "json_schema", "not"),
        ({"regex": "a", "allowed_characters": "b"}, "allowed_characters", "constraint"),
        ({"regex": "a" * 20, "num_generate": 19}, "regex", "the shortest answer has 20 characters"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(
    client: httpx.Client, fields: dict[str, Any], param: str, message: str
) -> None:
    found = refused(client, **fields)
    assert found[0] == param
    assert message in found[1]


def test_openais_and_vllms_fields_of_a_constraint(client: httpx.Client) -> None:
    def answered(path: str, **fields: Any) -> str:
        body = {"prompt": "Hark"} if path == "completions" else {"messages": [{"role": "user", "content": "Hark"}]}
        response = client.post(f"/v1/{path}", json={**body, "max_tokens": 500, "seed": 4, **fields})
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        return str(choice["text"] if path == "completions" else choice["message"]["content"])

    for path in ("completions", "chat/completions"):
        for fields in (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}},
            {"structured_outputs": {"json": PERSON}},
            {"guided_json": json.dumps(PERSON)},
        ):
            jsonschema.validate(json.loads(answered(path, **fields)), PERSON)
        assert isinstance(json.loads(answered(path, response_format={"type": "json_object"})), dict)
        assert re.fullmatch("[0-9]{3}", answered(path, structured_outputs={"regex": "[0-9]{3}"}))
        assert answered(path, structured_outputs={"choice": ["x1", "x2"]}) in ("x1", "x2")
        assert answered(path, guided_choice=["x1"]) == "x1"
        response = client.post(f"/v1/{path}", json={"prompt": "a", "messages": [], "guided_grammar": "root ::= a"})
        assert response.status_code == 400


# --- the compiler


@pytest.mark.slow
@pytest.mark.parametrize(
    "slow",
    [
        Constraint("regex", "[ab]*a[ab]{40}"),
        Constraint("json_schema", {"enum": ["a" * 40 + "!"], "pattern": "^(a+)+$"}),  # exponential for a matcher that backtracks
    ],
)
def test_a_constraint_that_needs_too_much_is_refused_and_the_next_one_compiles(
    slow: Constraint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, vocabulary = Compiler(), Vocabulary("ab")
    assert found.compile(Constraint("regex", "a1"), vocabulary).shortest == 2
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "SECONDS", 0.5)
        with pytest.raises(UnsupportedConstraint, match="simpler"):
            found.compile(slow, vocabulary)
    assert found.compile(Constraint("regex", "b22"), vocabulary).shortest == 3
    assert found.cached(Constraint("regex", "a1"), vocabulary) is not None
    found.close()


def test_a_constraint_that_took_too_long_is_refused_at_once_until_it_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "SECONDS", 0.5)
    found, vocabulary, slow = Compiler(), Vocabulary("ab"), Constraint("regex", "[ab]*a[ab]{40}")
    with pytest.raises(UnsupportedConstraint, match="simpler"):
        found.compile(slow, vocabulary)
    with pytest.raises(UnsupportedConstraint, match="simpler"):
        found.cached(slow, vocabulary)
    monkeypatch.setattr(compiler, "RETRY", 0)
    assert found.cached(slow, vocabulary) is None
    found.close()


def test_the_cache_is_limited_in_number_and_keeps_no_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MAX_CACHED", 2)
    found, vocabulary = Compiler(), Vocabulary("ab")
    found.compile(Constraint("regex", "a"), vocabulary)
    tracemalloc.start()
    try:
        for i in range(2):
            found.compile(Constraint("json_schema", {"const": i, "description": "long" * 250_000}), vocabulary)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert found.cached(Constraint("regex", "a"), vocabulary) is None
    found.close()


def test_the_cache_keeps_no_schema_that_took_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "SECONDS", 0)
    found, vocabulary = Compiler(), Vocabulary("ab")
    endless = {"enum": ["a" * 40 + "!"], "pattern": "^(a+)+$"}
    tracemalloc.start()
    try:
        for i in range(2):
            with pytest.raises(UnsupportedConstraint, match="simpler"):
                found.compile(Constraint("json_schema", {**endless, "title": str(i), "description": "long" * 250_000}), vocabulary)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    found.close()


def test_the_cache_drops_what_was_not_used_for_longest_and_counts_large_vocabularies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MAX_CACHED", 2)
    found, vocabulary = Compiler(), Vocabulary("ab")
    one, two, three = (Constraint("regex", text) for text in ("a", "b", "ab"))
    for constraint in (one, two):
        found.compile(constraint, vocabulary)
    assert found.cached(one, vocabulary)
    found.compile(three, vocabulary)
    assert [found.cached(constraint, vocabulary) is not None for constraint in (one, two, three)] == [True, False, True]
    monkeypatch.setattr(compiler, "MAX_BYTES", 6_000_000)
    found.compile(Constraint("regex", "a\U0010fffd"), vocabulary)  # whose ids take 4 MB
    found.compile(Constraint("regex", "b\U0010fffd"), vocabulary)
    assert found.cached(Constraint("regex", "a\U0010fffd"), vocabulary) is None
    found.close()


@pytest.mark.slow
def test_a_constraint_is_compiled_in_a_folder_with_a_package_named_service(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise RuntimeError('a package of the project')")
    code = (
        "from service.generation.constraints.compiler import Compiler, Constraint; from trainer.vocabulary import Vocabulary;"
        "print(Compiler().compile(Constraint('regex', 'ab'), Vocabulary('ab')).shortest)"
    )
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "2\n"


@pytest.mark.slow
def test_the_process_ends_a_compilation_for_which_no_server_waits() -> None:
    ours, theirs = Pipe()
    code = f"from service.generation.constraints import worker as w; w.SECONDS = 1; w.serve(w.Connection({theirs.fileno()}))"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
    theirs.close()
    assert ours.recv() == "ready"
    ours.send((json.dumps(["regex", "[ab]*a[ab]{40}"]), "ab"))
    ours.close()
    assert process.wait(60) == -signal.SIGALRM


@pytest.mark.slow
def test_a_constraint_does_not_wait_for_a_client_that_has_disconnected(
    served: tuple[FastAPI, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: Future[Any] = Future()
    monkeypatch.setattr(served[0].state.compiler, "submit", lambda *_: waiting)
    with pytest.raises(httpx.ReadTimeout):
        served[1].post("/generate", json={"start_string": "R", "regex": "never compiled"}, timeout=1)
    with pytest.raises(CancelledError):
        waiting.result(60)


def test_the_time_in_which_a_constraint_compiles_counts(
    served: tuple[FastAPI, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = served
    waiting, began = Future[Any](), threading.Event()

    def submit(*_: Any) -> Future[Any]:
        began.set()
        return waiting

    monkeypatch.setattr(app.state.compiler, "submit", submit)
    with ThreadPoolExecutor() as pool:
        body = {"start_string": "R", "regex": "[a-z]{10}", "max_time_ms": 10}
        response = pool.submit(client.post, "/generate", json=body)
        assert began.wait(60)
        time.sleep(0.02)  # more than the limit
        waiting.set_result(Compiler().compile(Constraint("regex", "[a-z]{10}"), Vocabulary(VOCABULARY)))
        answer = response.result(60).json()
    assert answer["finish_reason"] == "time"
    assert answer["timings"]["queue_ms"] >= 20


def test_constraints_that_would_wait_too_long_are_429(
    served: tuple[FastAPI, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, client = served

    def submit(*_: Any) -> Any:
        raise QueueFull(31.5)

    monkeypatch.setattr(app.state.compiler, "submit", submit)
    response = client.post("/generate", json={"start_string": "R", "regex": "[b-y]{7}"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "32")
    assert response.json()["error"]["code"] == "queue_full"


def test_constraints_wait_as_long_as_those_before_them_take(monkeypatch: pytest.MonkeyPatch) -> None:
    found, release, vocabulary = Compiler(), threading.Event(), Vocabulary("ab")
    monkeypatch.setattr(found, "compile", lambda *_: release.wait(60))
    monkeypatch.setattr(found, "_seconds", 4.0)
    try:
        accepted = [found.submit(Constraint("regex", f"a{i}"), vocabulary) for i in range(8)]
        with pytest.raises(QueueFull) as raised:
            found.submit(Constraint("regex", "b"), vocabulary)
        assert raised.value.seconds == 32
    finally:
        release.set()
    for future in accepted:
        future.result(60)
    found.submit(Constraint("regex", "b"), vocabulary).result(60)
    found.close()


def test_as_many_constraints_as_take_a_second_each_may_wait_before_any_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found, release, vocabulary = Compiler(), threading.Event(), Vocabulary("ab")
    monkeypatch.setattr(found, "compile", lambda *_: release.wait(60))
    try:
        for i in range(31):
            found.submit(Constraint("regex", f"a{i}"), vocabulary)
        with pytest.raises(QueueFull):
            found.submit(Constraint("regex", "b"), vocabulary)
        for _ in range(100):  # is compiled once
            found.submit(Constraint("regex", "a0"), vocabulary)
    finally:
        release.set()
        found.close()


def test_a_process_that_was_killed_while_it_was_idle_is_replaced() -> None:
    found, vocabulary = Compiler(), Vocabulary("ab")
    found.compile(Constraint("regex", "a1"), vocabulary)
    assert found._process is not None
    found._process.kill()
    found._process.wait()
    assert found.compile(Constraint("regex", "b22"), vocabulary).shortest == 3
    found.close()


def test_a_compilation_that_runs_out_of_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
from service.generation.constraints import worker

def compiled(*_):
    raise MemoryError

worker.automaton = compiled
worker.serve(worker.Connection(int(sys.argv[1])))
"""
    started = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        return started([command[0], "-c", code, command[-1]], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    found = Compiler()
    with pytest.raises(UnsupportedConstraint, match="too much memory"):
        found.compile(Constraint("regex", "a1"), Vocabulary("ab"))
    found.close()


def test_a_schema_in_a_string_that_is_nested_too_deeply_is_refused(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json={"prompt": "R", "guided_json": "[" * 100_000})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "guided_json")
    response = client.post("/v1/completions", json={"prompt": "R", "guided_regex": "(?=a)b"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "guided_regex")


def test_characters_that_the_model_does_not_know_leave_a_prompt_of_one_character_as_the_input(client: httpx.Client) -> None:
    """At temperature 0 the letters follow from the prompt alone."""
    letters = generated(client, start_string="R", regex="[a-z]{30}", temperature=0)["text"]
    assert generated(client, start_string="R", regex="[0-9]{3}[a-z]{30}", temperature=0)["text"] == f"000{letters}"
