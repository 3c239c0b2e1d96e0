"""The two programs as a user starts them: processes, flags, variables, signals, the shipped model."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.models_folder import candidates
from tests.end_to_end.processes import ROOT, service
from tests.sse import events
from tests.support import Publish
from trainer import artifact


def test_the_shipped_model_is_served_and_speaks_like_a_play() -> None:
    body = {"start_string": "ROMEO: ", "num_generate": 600, "temperature": 0.5, "seed": 1}
    with service() as (_, client):
        answer = client.post("/generate", json=body).json()
        with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
            *texts, done = events(response.iter_bytes())
    assert answer["model"] == "shakespeare"
    assert answer["text"].startswith("ROMEO: ")
    assert len(answer["text"]) == 607
    assert "ROMEO: " + "".join(event.data["text"] for event in texts) == answer["text"]
    assert done.name == "done"

    words = re.findall(r"[a-z]+", answer["text"].lower())
    corpus = set(re.findall(r"[a-z]+", (ROOT / "trainer" / "data" / "shakespeare.txt").read_text().lower()))
    assert sum(word in corpus for word in words) > 0.9 * len(words)
    assert re.search(r"\n\n[A-Z][A-Za-z ]+:\n", answer["text"]), "a speaker's name on a line of its own"


def test_the_shipped_version_is_whole_and_small_and_good() -> None:
    (newest, *_) = candidates(ROOT / "models" / "shakespeare")
    version = artifact.read(newest)
    assert version.config.parameters == 4_021_569
    assert len(version.config.vocabulary) == 65
    assert {path.name for path in newest.iterdir()} >= {"training.json", "loss.png", "sample.txt"}
    assert version.config.training["held_out"] == 0.1
    assert (version.config.scores.full_pass or 9) <= 1.415
    assert (version.config.scores.cold_256 or 9) <= 1.435
    assert sum(path.stat().st_size for path in newest.iterdir()) < 20_000_000


def test_variables_and_flags_have_the_same_names_and_a_term_signal_ends_it(tmp_path: Path, publish: Publish) -> None:
    publish("dao")
    with service(SERVICE_MODELS_DIR=str(tmp_path), SERVICE_SLOTS="2", SERVICE_SHUTDOWN_DELAY="0") as (process, client):
        assert client.post("/generate", json={"start_string": "a", "num_generate": 5}).json()["model"] == "dao"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    with service("--models-dir", tmp_path) as (_, client):
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("flags", [["--port", "99999"], ["--slots", "0"], ["--nonsense", "1"]])
def test_settings_that_cannot_be_are_one_line_and_exit_code_2(flags: list[str]) -> None:
    command = [sys.executable, "-m", "service", *flags]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 2
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("python -m service: error: ")
    assert flags[0] in last
