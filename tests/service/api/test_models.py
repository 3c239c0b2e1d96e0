"""/models: what is served, and the files that were published with it; a chat's template beside them."""

import json
from pathlib import Path

import pytest

from service.settings import Settings
from tests.support import ARCHITECTURE, config, random_tensors, serving
from trainer import artifact

SCORES = {"full_pass": 1.5, "cold_256": 1.6}


def publish(models: Path, name: str, files: dict[str, bytes], **more_scores: dict[str, float]) -> None:
    artifact.publish(models, config(ARCHITECTURE, name, scores=SCORES | more_scores), random_tensors(ARCHITECTURE), files)


def test_models_are_told_with_their_scores_and_files(tmp_path: Path) -> None:
    publish(tmp_path, "plain", {})
    served = {"full_pass": 1.501, "cold_256": 1.599}
    publish(tmp_path, "told", {"loss.png": b"\x89PNG...", "sample.txt": "Ach, ü!".encode()}, as_served=served)
    with serving(Settings(models_dir=tmp_path, default_model="told")) as (_, client):
        plain, told = client.get("/models").json()["models"]
        assert (plain["name"], plain["default"], plain["loss"], plain["sample"]) == ("plain", False, None, None)
        assert told["name"] == "told"
        assert told["default"]
        assert told["scores"] == plain["scores"] == SCORES
        assert (told["scores_as_served"], plain["scores_as_served"]) == (served, None)
        assert (told["engine"], told["precision"], told["vocabulary_size"]) == ("native", "int8", len(ARCHITECTURE.vocabulary))
        details = client.get("/models/told").json()
        assert details["config"]["vocabulary"] == ARCHITECTURE.vocabulary
        assert details["config"]["scores"] == {**SCORES, "as_served": served}
        assert {key: details[key] for key in told} == told
        loss, sample = client.get(told["loss"]), client.get(told["sample"])
        assert (loss.headers["content-type"], loss.content) == ("image/png", b"\x89PNG...")
        assert (sample.headers["content-type"], sample.text) == ("text/plain; charset=utf-8", "Ach, ü!")
        for path, code in (("/models/absent", "model_not_found"), ("/models/plain/loss.png", "not_found")):
            response = client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (404, code)


def test_a_chat_is_rendered_by_the_models_own_template(tmp_path: Path) -> None:
    publish(tmp_path, "tiny", {})
    (tmp_path / "tiny" / "chat.json").write_text(
        '{"speakers": {"user": "Q", "assistant": "A"}, "turn": "{speaker} {words}\\n", "reply": "{speaker} ", "stop": ["\\n"]}'
    )
    with serving(Settings(models_dir=tmp_path)) as (_, client):
        chat = {"messages": [{"role": "user", "content": "To be?"}], "seed": 5, "max_tokens": 30}
        reply = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
        body = {"start_string": "Q To be?\nA ", "seed": 5, "num_generate": 30, "stop": "\n", "echo": False}
        assert reply == client.post("/generate", json=body).json()["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"turn": "{speech}"}',
        '{"turn": "{speaker.x}"}',
        '{"reply": "{speaker[a]}"}',
        '{"turns": "a"}',
        '{"stop": 1}',
        '{"stop": [""]}',
    ],
)
def test_a_template_that_is_none_is_refused_with_a_word_and_its_model_served(tmp_path: Path, content: str) -> None:
    publish(tmp_path, "tiny", {})
    (tmp_path / "tiny" / "chat.json").write_text(content)
    with serving(Settings(models_dir=tmp_path)) as (_, client):
        told = client.get("/models").json()
        assert [model["name"] for model in told["models"]] == ["tiny"]
        assert ["chat.json" in reason for reason in told["refused"]] == [True]


def test_what_cannot_be_sent_is_refused_and_hides_no_model(tmp_path: Path) -> None:
    for name in ("tiny", "recipe", "created"):
        publish(tmp_path, name, {})
    for name, value in (("recipe", "\ud800"), ("created", "0001-01-01T00:00:00")):
        file = tmp_path / name / "1" / artifact.CONFIG
        file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with serving(Settings(models_dir=tmp_path)) as (_, client):
        told = client.get("/models").json()
        assert [model["name"] for model in told["models"]] == ["tiny"]
        assert len(told["refused"]) == 2
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]


def test_a_models_card_needs_no_look_into_its_folder_and_a_lost_file_is_not_found(tmp_path: Path) -> None:
    publish(tmp_path, "tiny", {"loss.png": b"\x89PNG...", "sample.txt": b"To be"})
    with serving(Settings(models_dir=tmp_path, watch=0)) as (_, client):
        before = client.get("/models").json()
        (tmp_path / "tiny").rename(tmp_path / ".tiny")
        assert client.get("/models").json() == before
        response = client.get("/models/tiny/loss.png")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
