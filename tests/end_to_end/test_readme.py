"""What the READMEs show is run as it stands, but for the server's address."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.support import serving

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", *ROOT.glob("*/README.md")]
DOCS = sorted((ROOT / "docs").glob("*.md"))
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Settings(models_dir=ROOT / "models", slots=8)) as (_, client):
        yield str(client.base_url).rstrip("/")


def blocks(heading: str, language: str) -> list[str]:
    """The section's blocks in that language."""
    text = "".join(readme.read_text() for readme in READMES)
    section = re.split(r"^##+ ", text.partition(f"### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, f"no README has {language} under {heading}"
    return found


def run(command: list[str], code: str, address: str) -> str:
    code = code.replace("http://127.0.0.1:8000", address)
    done = subprocess.run([*command, code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("readme", [*READMES, *DOCS, ROOT / "CONTRIBUTING.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(readme: Path) -> None:
    for place, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", readme.read_text()):
        target = readme.parent / place if place else readme
        assert target.exists(), place
        headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_curl(address: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    whole, streamed = blocks("curl", "sh")
    answer = json.loads(run(["bash", "-c"], whole, address))
    assert answer["text"].startswith("ROMEO: ")
    assert len(answer["text"]) == len("ROMEO: ") + 200
    assert "event: done" in run(["bash", "-c"], streamed, address)


def test_python(address: str) -> None:
    (code,) = blocks("Python", "python")
    assert len(run([sys.executable, "-c"], code, address)) == 500


def test_openais_client(address: str) -> None:
    (code,) = blocks("OpenAI's client", "python")
    body = {"start_string": "ROMEO: ", "num_generate": 200, "seed": 1, "echo": False}
    completion = httpx.post(f"{address}/generate", json=body, timeout=60).json()["text"]
    output = run([sys.executable, "-c"], code, address)
    assert output.startswith(completion + "\n")
    assert len(output) > len(completion) + 1


def test_javascript(address: str) -> None:
    by_event_source, by_fetch = blocks("JavaScript", "js")
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
        page.goto(f"{address}/healthz")
        page.evaluate(f"async () => {{ document.body.textContent = ''; {code.replace('http://127.0.0.1:8000', address)} }}")
        page.wait_for_function("document.body.textContent.length === 500", timeout=60_000)
        browser.close()


def test_terminal() -> None:
    (code,) = blocks("Terminal", "sh")
    code = code.replace(".venv/bin/python -m", f"{sys.executable} -m").replace("generate ", "generate --models-dir models ")
    output = run(["bash", "-c"], code, "")
    assert output.startswith("ROMEO: ")
