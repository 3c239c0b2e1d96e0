"""What the documentation shows is run as it stands, but for the server's address."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.end_to_end.processes import ROOT, service
from tests.sse import events
from tests.support import serving

ADDRESS = "http://127.0.0.1:8000"
README, SERVING, TUTORIAL = ROOT / "README.md", ROOT / "service" / "README.md", ROOT / "docs" / "tutorial.md"
CHROMIUM = shutil.which("chromium")

# `make train` without the installation that precedes it.
MAKE = f"""
make() {{
    [ "$1" = train ] || return 1
    shift
    for variable in "$@"; do local "$variable"; done
    "{sys.executable}" -m trainer --corpus "$TEXT" --name "$NAME" $TRAIN_FLAGS
}}
"""

# The page's programs have httpx's timeout of 5 seconds, which is enough where nothing else runs.
PATIENT = "import httpx, functools; httpx.post = functools.partial(httpx.post, timeout=60); del functools\n"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Settings(models_dir=ROOT / "models", slots=8)) as (_, client):
        yield str(client.base_url).rstrip("/")


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {language}"
    return found


def run(language: str, code: str, address: str = ADDRESS, folder: Path = ROOT) -> str:
    code = code.replace(ADDRESS, address).replace(".venv/bin/python", sys.executable)
    command = {"sh": ["bash", "-c", MAKE + code], "python": [sys.executable, "-c", PATIENT + code]}[language]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def generated(address: str, **body: object) -> str:
    return str(httpx.post(f"{address}/generate", json=body, timeout=60).raise_for_status().json()["text"])


@needs_curl
def test_the_readmes_request_has_the_readmes_answer(address: str) -> None:
    request = next(block for block in blocks(README, "sh") if block.startswith("curl"))
    (shown,) = blocks(README, "text")
    assert json.loads(run("sh", request, address))["text"] == shown.removesuffix("\n")


def test_the_stream_example(address: str) -> None:
    assert len(run_example("stream.py", address)) == 500 + len("\n")


def test_the_resume_example_loses_and_repeats_nothing(address: str) -> None:
    first_line, text = run_example("resume.py", address).split("\n", 1)
    assert re.fullmatch(r"[1-9]\d* characters, then \d+:", first_line)  # the second event may hold all the rest
    assert text == generated(address, start_string="ROMEO: ", num_generate=300, seed=1, echo=False) + "\n"


def test_python_without_a_server_writes_the_servers_text(address: str) -> None:
    (code,) = blocks(SERVING, "python")
    said = run("python", code)
    assert said.startswith(generated(address, start_string="ROMEO:", temperature=0.7, num_generate=50, seed=1) + "\n")
    part = generated(address, start_string="ROMEO:", stop=["\n\n"], seed=1, echo=False)
    nats = httpx.post(f"{address}/score", json={"text": "To be, or not to be"}, timeout=60).json()["nats_per_character"]
    _, ended, score = said.rpartition(f"{part} [stop, seed 1]\n")
    assert ended
    assert float(score) == pytest.approx(nats)


def test_the_example_without_a_server(address: str) -> None:
    text = generated(address, start_string="ROMEO: ", temperature=0.8, num_generate=1000, seed=1)
    assert run_example("generate.py", address) == text + "\n"


def test_the_example_of_openais_client(address: str) -> None:
    body = {"model": "shakespeare", "prompt": "ROMEO: ", "max_tokens": 200, "n": 2, "seed": 1}
    choices = httpx.post(f"{address}/v1/completions", json=body, timeout=60).json()["choices"]
    completions = "".join(f"{choice['text']}\n\n" for choice in choices)
    output = run_example("openai_client.py", address)
    assert output.startswith(completions)
    assert output.removeprefix(completions).strip(), "the chat, whose seed is random"


def run_example(name: str, address: str) -> str:
    return run("python", (ROOT / "examples" / name).read_text(), address)


def test_javascript(address: str) -> None:
    by_event_source, by_fetch = blocks(SERVING, "js")
    run_in_browser(by_event_source, address)
    key = "correct-horse-battery"
    with serving(Settings.model_validate({"models_dir": ROOT / "models", "api_keys": key})) as (_, client):
        run_in_browser(by_fetch.replace("YOUR-API-KEY", key), str(client.base_url).rstrip("/"))


def run_in_browser(code: str, address: str) -> None:
    if not CHROMIUM:
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{address}/healthz")
        page.evaluate(f"async () => {{ document.body.textContent = ''; {code.replace(ADDRESS, address)} }}")
        page.wait_for_function("document.body.textContent.length === 500", timeout=60_000)
        browser.close()


def test_terminal() -> None:
    (code,) = blocks(SERVING, "sh")
    assert run("sh", code.replace("generate ", "generate --models-dir models ")).startswith("ROMEO: ")


@needs_curl
def test_tutorial(tmp_path: Path) -> None:
    """All of its commands, one after another, in a folder that has what a checkout has; outputs where the page says `Output:`."""
    (tmp_path / "trainer").symlink_to(ROOT / "trainer")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "shakespeare").symlink_to(ROOT / "models" / "shakespeare")
    steps = re.findall(
        r"^```(sh|python)\n(.*?)^```\n(?:\nOutput:\n\n```text\n(.*?)^```)?", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL
    )
    address = ""
    with ExitStack() as stack:
        for language, code, shown in steps:
            if code == "make serve\n":
                _, client = stack.enter_context(service("--models-dir", tmp_path / "models"))
                address = str(client.base_url).rstrip("/")
                continue
            output = run(language, code, address, tmp_path)
            assert output == shown or not shown
        whole = generated(address, model="shakespeare", start_string="ROMEO:", num_generate=1000, seed=6, echo=False)

    history = json.loads((tmp_path / "models" / "mine" / "1" / "training.json").read_text())["history"]
    assert history[-1]["held_out"]["full_pass"] < 0.9 * history[0]["held_out"]["full_pass"], "it has learnt"
    assert history[-1]["losses"][0] < 0.5 * history[0]["losses"][0]
    assert (tmp_path / "models" / "mine" / "1" / "loss.png").exists()
    cut, rest = ((tmp_path / name).read_bytes() + b"\n" for name in ("first.txt", "rest.txt"))
    texts = [[event.data.get("text", "") for event in events([part])] for part in (cut, rest.removesuffix(b"\n"))]
    assert len(texts[0]) == 2
    assert "".join(texts[0] + texts[1]) == whole, "the resumed stream loses and repeats nothing"
