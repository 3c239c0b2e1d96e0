"""The page at / in a real Chromium: pointer, keyboard, clipboard, a phone's width, a server that stops."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from math import exp
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect, sync_playwright
from pydantic import SecretStr

from service.app import create_app
from service.generation.backends import open_backend
from service.settings import Settings
from tests.end_to_end.processes import service
from tests.ports import free_port
from tests.sse import events
from tests.support import VOCABULARY, Gate, Publish, publish, run_server, serving, wait_until
from trainer.artifact import Architecture

TIMEOUT = 60_000  # milliseconds for what a test waits for
expect.set_options(timeout=TIMEOUT)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # The browser makes no requests of its own.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ARCHITECTURE = Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=sorted({*VOCABULARY, *'"$`\\#%'}))
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
SAMPLE = "Ay me, é語🎭!\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium command")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    scores = {"full_pass": 1.4234, "cold_256": 1.4345, "as_served": {"full_pass": 1.4244, "cold_256": 1.4336}}
    files = {"loss.png": PNG, "sample.txt": SAMPLE.encode()}
    publish(models, "tiny", 1, ARCHITECTURE, files, scores=scores)
    publish(models, "other", 2, ARCHITECTURE)
    return models


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[tuple[FastAPI, httpx.Client]]:
    settings = Settings(models_dir=models, default_model="tiny", slots=2, queue_limit=2, max_num_generate=10**9)
    with serving(settings) as both:
        yield both


@pytest.fixture
def client(served: tuple[FastAPI, httpx.Client]) -> httpx.Client:
    return served[1]


@pytest.fixture
def engine(served: tuple[FastAPI, httpx.Client]) -> Any:
    return served[0].state.registry.get("tiny").engine


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    with opened(browser, str(client.base_url)) as page:
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        yield page


@contextmanager
def opened(browser: Browser, address: str, path: str = "/", **options: Any) -> Iterator[Page]:
    """The page in a new window. All its requests must go to the server, and no script may fail or be blocked."""
    with browser.new_context(base_url=address, permissions=["clipboard-read", "clipboard-write"], **options) as context:
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        elsewhere: list[str] = []
        wrong: list[str] = []

        def on_request(request: Request) -> None:
            if not request.url.removeprefix("blob:").startswith(f"{address.rstrip('/')}/"):
                elsewhere.append(request.url)

        page.on("request", on_request)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(path)
        yield page
        assert elsewhere == []
        # The browser logs this for every error status and every lost connection.
        assert [one for one in wrong if not one.startswith("Failed to load resource")] == []


def fill(page: Page, **fields: object) -> None:
    for name, value in fields.items():
        page.locator(f"[name={name}]").fill(str(value))


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def record_statuses(page: Page) -> None:
    page.evaluate(
        "new MutationObserver(() => (globalThis.said ??= []).push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), { childList: true, characterData: true, subtree: true })"
    )


def recorded_statuses(page: Page) -> list[str]:
    return list(page.evaluate("globalThis.said"))


def generate(page: Page, **fields: object) -> None:
    """Fills the form, clicks, and waits for the text's end."""
    # The model brings an example of a start string. It must not arrive between the two steps of `fill`: select all, insert.
    expect(page.locator("[name=model]")).not_to_have_value("")
    fill(page, **fields)
    press(page, "Generate")
    expect(status(page)).to_contain_text("requested length reached")


def text(page: Page) -> str:
    return page.locator("#text").text_content() or ""


def whole(client: httpx.Client, **body: Any) -> str:
    """The API's text for a request."""
    answer = client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


def at_pace(page: Page, characters_per_second: float) -> None:
    """Slows all later texts, so that a test can act while one arrives."""

    def slowed(route: Route) -> None:
        route.continue_(post_data=json.dumps({**(route.request.post_data_json or {}), "pace": characters_per_second}))

    page.route("**/generate", slowed)


def wait_for_text(page: Page, characters: int) -> None:
    page.wait_for_function("least => document.querySelector('.continuation').textContent.length >= least", arg=characters)


# --- generating


def test_a_text_streams_in_and_is_the_apis_for_the_same_seed(page: Page, client: httpx.Client) -> None:
    start = "é語🎭 'twas\n\nso: "
    generate(page, start_string=start, seed=7, num_generate=600, temperature=0.8)
    assert text(page) == whole(client, start_string=start, seed=7, num_generate=600, temperature=0.8)
    assert "\u2028" in text(page)
    assert page.locator("#text .start").text_content() == start


def test_every_setting_reaches_the_request(page: Page, client: httpx.Client) -> None:
    fields: dict[str, Any] = {"start_string": "a", "seed": 3, "num_generate": 300, "temperature": 1.5, "top_k": 30}
    fields |= {"top_p": 0.9, "min_p": 0.02}
    fill(page, **fields, allowed_characters=r"abcdefgh \n\\", stop="zzz\nü\n\\n\\nq")
    page.get_by_label("Model", exact=True).select_option("other")
    with page.expect_request("**/generate") as sent:
        press(page, "Generate")
    expected = {**fields, "allowed_characters": "abcdefgh \n\\", "stop": ["zzz", "ü", "\n\nq"], "model": "other"}
    assert sent.value.post_data_json == {**expected, "stream": True, "return_state": True}
    expect(status(page)).to_contain_text("requested length reached")
    assert text(page) == whole(client, **expected)


def test_the_start_string_looks_unlike_its_continuation(page: Page) -> None:
    generate(page, start_string="Romeo", num_generate=5)
    style = "name => { const s = getComputedStyle(document.querySelector(name)); return [s.color, s.fontStyle]; }"
    (color, slant), (other_color, other_slant) = page.evaluate(style, ".start"), page.evaluate(style, ".continuation")
    assert color != other_color
    assert slant != other_slant  # not by colour alone


def test_measurements_and_the_servers_receipt_are_shown(page: Page, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine.backend, monkeypatch, permits=1)
    fill(page, start_string="R", num_generate=100_000)
    press(page, "Generate")
    wait_for_text(page, 1)  # a text that arrives in one read has no rate
    gate.open()
    expect(status(page)).to_contain_text("requested length reached")
    assert page.locator("#count").text_content() == "100,000"
    assert re.fullmatch(r"[\d,]+", page.locator("#speed").text_content() or "")
    assert re.fullmatch(r"[\d,.]+ ms", page.locator("#ttft").text_content() or "")
    rows = page.locator("#receipt dl > div").all_text_contents()
    for row in ("Modeltiny, version 1", "Enginenative", "Finish reasonlength", "Characters read1", "Characters generated100,000"):
        assert row in rows
    for name in ("Queue", "Prefill", "Decode"):
        assert any(re.fullmatch(rf"{name}[\d,.]+ ms", row) for row in rows)
    assert "Precisionint8" in rows


def test_a_random_seed_is_shown_and_can_be_kept(page: Page, client: httpx.Client) -> None:
    generate(page, start_string="Romeo", num_generate=50)
    first, seed = text(page), int(page.locator("#seed-value").text_content() or "")
    assert first == whole(client, start_string="Romeo", num_generate=50, seed=seed)
    press(page, "Keep this seed")
    expect(page.get_by_label("Seed")).to_have_value(str(seed))
    expect(page.get_by_label("Seed")).to_be_focused()
    generate(page)
    assert text(page) == first


def test_stopping_frees_the_slot_at_once_and_keeps_the_text(page: Page, client: httpx.Client, engine: Any) -> None:
    at_pace(page, 50)
    fill(page, start_string="a", seed=4, num_generate=10**9)  # which takes hours
    press(page, "Generate")
    wait_for_text(page, 1)
    assert engine.running == 1
    press(page, "Stop")
    expect(status(page)).to_contain_text("Stopped after")
    wait_until(lambda: engine.running == 0)
    kept = text(page)
    assert kept == whole(client, start_string="a", seed=4, num_generate=len(kept) - 1)
    assert page.locator("#count").text_content() == f"{len(kept) - 1:,}"


def test_a_stopped_text_continues_where_it_stopped(page: Page, client: httpx.Client) -> None:
    at_pace(page, 2)
    fill(page, start_string="a", seed=4, num_generate=500)
    press(page, "Generate")
    wait_for_text(page, 1)
    press(page, "Stop")
    expect(status(page)).to_contain_text("Stopped after")
    assert 1 < len(text(page)) < 501
    page.unroute("**/generate")
    press(page, "Continue from here")
    expect(status(page)).to_contain_text("requested length reached")
    assert text(page) == whole(client, start_string="a", seed=4, num_generate=500)


def test_continuing_gives_the_text_of_one_long_request(page: Page, client: httpx.Client) -> None:
    generate(page, start_string="Romeo", num_generate=200)
    for parts in (2, 3):
        with page.expect_request("**/generate") as sent:
            press(page, "Continue from here")
        assert "start_string" not in (sent.value.post_data_json or {})
        expect(status(page)).to_contain_text("requested length reached")
        seed = int(page.locator("#seed-value").text_content() or "")
        assert text(page) == whole(client, start_string="Romeo", num_generate=parts * 200, seed=seed)


def test_settings_outlive_a_reload_and_come_with_a_link(page: Page) -> None:
    settings = {"start_string": "two\nlines & more", "temperature": "0.65", "top_p": "0.9", "min_p": "0.1", "top_k": "12"}
    settings |= {"num_generate": "77", "allowed_characters": "abc", "stop": "x\n y", "seed": "5"}
    fill(page, **settings)
    page.get_by_label("Model", exact=True).select_option("other")
    page.get_by_label("Tint by probability").check()
    page.wait_for_url(re.compile("tint=on"))
    page.reload()
    expect(page.get_by_role("heading", name="other, version 1")).to_be_visible()
    for name, value in settings.items():
        expect(page.locator(f"[name={name}]")).to_have_value(value)
    expect(page.get_by_label("Model", exact=True)).to_have_value("other")
    expect(page.get_by_label("Tint by probability")).to_be_checked()
    page.evaluate("() => { location.hash = 'start_string=other+words&seed=12'; }")
    expect(page.get_by_label("Start string")).to_have_value("other words")
    expect(page.get_by_label("Seed")).to_have_value("12")
    expect(page.get_by_label("Top k")).to_have_value("")
    expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
    expect(page.get_by_role("list", name="Legend")).to_be_hidden()


# --- probabilities


def level(entry: dict[str, Any]) -> int:
    return sum(exp(entry["logprob"]) < bound for bound in (0.5, 0.2, 0.05, 0.01))


def percent(logprob: float) -> str:
    value = exp(logprob) * 100
    return "< 0.01 %" if value < 0.01 else f"{value:.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f} %"


def sign(character: str) -> str:
    return {" ": "␣", "\n": "↵", "\u2028": "↓"}.get(character, character)


def column(entry: dict[str, Any]) -> str:
    return sign(entry["character"]) + percent(entry["logprob"])


def columns(entry: dict[str, Any]) -> list[str]:
    """What the card shows: the most likely characters, and the sampled one if it is not among them."""
    others = [other["character"] for other in entry["likeliest"]]
    return [column(one) for one in entry["likeliest"] + ([] if entry["character"] in others else [entry])]


def logprobs(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.post("/generate", json={**body, "logprobs": 5}).json()["logprobs"]
    return found


def characters_of(page: Page) -> Locator:
    return page.locator(".tinted .line > span")


def tints(page: Page) -> list[str]:
    """The legend's level of each character."""
    classes: list[str] = characters_of(page).evaluate_all("spans => spans.map(span => span.className.match(/p\\d/)[0])")
    return classes


BODY: dict[str, Any] = {"start_string": "Romeo", "seed": 9, "num_generate": 300}


def test_characters_are_tinted_by_their_probability_as_they_come(page: Page, client: httpx.Client) -> None:
    page.get_by_label("Tint by probability").check()
    expect(page.get_by_role("list", name="Legend")).to_be_visible()
    generate(page, **BODY)
    assert text(page) == whole(client, **BODY)
    found = tints(page)
    assert found == [f"p{level(entry)}" for entry in logprobs(client, **BODY)]
    assert len(set(found)) > 3


def test_tinting_afterwards_repeats_the_request_and_changes_no_character(page: Page, client: httpx.Client) -> None:
    generate(page, start_string="Romeo", num_generate=150)
    press(page, "Continue from here")
    expect(status(page)).to_contain_text("requested length reached")
    before, seed = text(page), int(page.locator("#seed-value").text_content() or "")
    page.get_by_label("Tint by probability").check()
    expect(characters_of(page)).to_have_count(300)
    assert text(page) == before
    assert tints(page) == [f"p{level(entry)}" for entry in logprobs(client, start_string="Romeo", num_generate=300, seed=seed)]
    page.get_by_label("Tint by probability").uncheck()
    expect(characters_of(page)).to_have_count(0)
    assert text(page) == before
    with page.expect_request("**/generate") as sent:  # the probabilities of the old text are not used for a new one
        press(page, "Generate")
    assert "logprobs" not in (sent.value.post_data_json or {})


def test_a_stopped_text_can_be_tinted_and_continued(page: Page, client: httpx.Client) -> None:
    at_pace(page, 2)
    fill(page, **BODY)
    press(page, "Generate")
    wait_for_text(page, 1)
    press(page, "Stop")
    expect(status(page)).to_contain_text("Stopped after")
    before = text(page)
    page.unroute("**/generate")
    page.get_by_label("Tint by probability").check()
    expect(characters_of(page)).to_have_count(len(before) - len("Romeo"))
    press(page, "Continue from here")
    expect(characters_of(page)).to_have_count(300)
    expect(page.get_by_role("button", name="Continue from here")).to_be_visible()  # the stream has ended
    assert text(page) == whole(client, **BODY)
    assert tints(page) == [f"p{level(entry)}" for entry in logprobs(client, **BODY)]


def test_pointing_at_a_character_shows_its_alternatives(page: Page, client: httpx.Client) -> None:
    page.get_by_label("Tint by probability").check()
    generate(page, **BODY)
    entries = logprobs(client, **BODY)
    unlikely = next(
        i for i, entry in enumerate(entries) if entry["character"] not in [one["character"] for one in entry["likeliest"]]
    )
    card = page.locator("#alternatives")
    for index in (0, 17, unlikely):
        characters_of(page).nth(index).hover()
        expect(card).to_be_visible()
        expect(card.locator(".alternative")).to_have_text(columns(entries[index]))
        expect(card.locator(".sampled")).to_have_text([column(entries[index])])
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    characters_of(page).nth(3).hover()
    expect(card).to_be_visible()
    page.get_by_role("heading", name="Folio").hover()
    expect(card).to_be_hidden()


def test_arrow_keys_move_between_characters_which_are_one_tab_stop(page: Page, client: httpx.Client) -> None:
    page.get_by_label("Tint by probability").check()
    generate(page, **BODY)
    entries, card, focused = logprobs(client, **BODY), page.locator("#alternatives"), page.locator(":focus")

    def at(index: int) -> None:
        expect(focused).to_have_text(entries[index]["character"])
        assert card.locator(".alternative").all_text_contents() == columns(entries[index])
        assert percent(entries[index]["logprob"]) in (focused.get_attribute("aria-label") or "")

    page.get_by_label("Tint by probability").focus()
    page.keyboard.press("Tab")
    at(0)
    for index in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        at(index)
    page.keyboard.press("ArrowLeft")
    at(2)
    page.keyboard.press("End")
    at(299)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Continue from here")).to_be_focused()
    expect(card).to_be_hidden()
    page.keyboard.press("Shift+Tab")
    at(299)
    page.keyboard.press("Home")
    at(0)
    page.keyboard.press("ArrowLeft")
    at(0)
    place = "document.activeElement.getClientRects()[0].top"
    top = page.evaluate(place)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(place) > top
    page.keyboard.press("ArrowUp")
    assert page.evaluate(place) == top
    assert page.locator(".tinted [tabindex]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tints_are_legible_and_tell_by_lightness_and_underline_too(browser: Browser, client: httpx.Client, scheme: str) -> None:
    with opened(browser, str(client.base_url), color_scheme=scheme) as page:
        page.get_by_label("Tint by probability").check()
        colors = page.locator(".legend .sample").evaluate_all(
            """samples => samples.map(one => {
              const style = getComputedStyle(one);
              const behind = getComputedStyle(document.querySelector(".sheet")).backgroundColor;
              const transparent = style.backgroundColor === "rgba(0, 0, 0, 0)";
              return [style.color, transparent ? behind : style.backgroundColor, style.textDecorationLine];
            })"""
        )
    luminances = [(luminance(ink), luminance(paper)) for ink, paper, _ in colors]
    assert len(luminances) == 5
    for ink, paper in luminances:
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5  # WCAG's contrast for text
    papers = [paper for _, paper in luminances]
    steps = [abs(b - a) for a, b in pairwise(papers)]
    assert papers == sorted(papers, reverse=scheme == "light")
    assert min(steps) > 0.002
    assert [line for _, _, line in colors] == ["none", "none", "none", "underline", "underline"]


def luminance(color: str) -> float:
    """WCAG's relative luminance of rgb(r, g, b)."""
    parts = (int(part) / 255 for part in re.findall(r"\d+", color)[:3])
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# --- copying


def test_the_curl_command_run_by_a_shell_gives_the_text(page: Page) -> None:
    start = 'It\'s "so",\n$HOME `id` \\ é語🎭\u2028!'
    generate(page, start_string=start, num_generate=120, stop="it's $(never) \"there\"\n\\\\\\n'")
    press(page, "Copy as curl")
    expect(status(page)).to_have_text("Command copied.")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl ")
    finished = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=120)
    *texts, done = events([finished.stdout])
    assert start + "".join(event.data["text"] for event in texts) == text(page)
    assert done.data["start_string"] == start


def test_before_a_text_the_curl_command_is_what_generate_would_send(page: Page) -> None:
    fill(page, start_string="a", num_generate=12)
    press(page, "Copy as curl")
    expect(status(page)).to_have_text("Command copied.")
    command = page.evaluate("navigator.clipboard.readText()")
    finished = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=120)
    *_, done = events([finished.stdout])
    assert done.data["usage"] == {"prompt_characters": 1, "generated_characters": 12}


def test_the_text_can_be_copied_tinted_or_not(page: Page) -> None:
    generate(page, **BODY)
    for tinted in (False, True):
        page.get_by_label("Tint by probability").set_checked(tinted)
        expect(characters_of(page)).to_have_count(300 if tinted else 0)
        press(page, "Copy text")
        expect(status(page)).to_have_text("Text copied.")
        assert page.evaluate("navigator.clipboard.readText()") == text(page)
        page.evaluate("getSelection().selectAllChildren(document.getElementById('text'))")
        assert page.evaluate("getSelection().toString()") == text(page)


def test_without_a_clipboard_the_command_is_there_to_be_copied_by_hand(browser: Browser, client: httpx.Client) -> None:
    """As in a page that came over plain HTTP from another machine."""
    with opened(browser, str(client.base_url)) as page:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        press(page, "Copy as curl")
        by_hand = page.get_by_label("Copy from here")
        expect(by_hand).to_be_focused()
        assert by_hand.input_value().startswith("curl ")


# --- what goes wrong


def test_unknown_characters_are_named_and_marked_and_can_be_removed(page: Page) -> None:
    fill(page, start_string="To ß or 🎭 not ß, Ж.")
    press(page, "Generate")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The model does not know these characters.")
    expect(alert).to_contain_text("ß\u00a0U+00DF, 2 times; Ж\u00a0U+0416")
    expect(alert.locator("mark")).to_have_text(["ß", "ß", "Ж"])
    expect(alert.locator(".marked")).to_have_text("To ß or 🎭 not ß, Ж.")
    start_string = page.get_by_label("Start string")
    expect(start_string).to_have_attribute("aria-invalid", "true")
    press(page, "Remove them")
    expect(start_string).to_have_value("To  or 🎭 not , .")
    expect(start_string).to_be_focused()
    expect(alert).to_be_hidden()
    generate(page, num_generate=5)


def test_unknown_allowed_characters_are_marked_and_can_be_removed(page: Page) -> None:
    fill(page, start_string="a", allowed_characters=r"a\nß")
    press(page, "Generate")
    expect(page.get_by_role("alert").locator("mark")).to_have_text(["ß"])
    press(page, "Remove them")
    expect(page.get_by_label("Allowed characters")).to_have_value(r"a\n")
    generate(page, num_generate=5)


def test_a_rejected_field_is_marked_and_the_text_stays(page: Page) -> None:
    generate(page, start_string="Romeo", num_generate=20)
    before = text(page)
    fill(page, num_generate=2 * 10**9)
    press(page, "Generate")
    expect(page.get_by_role("alert")).to_contain_text(
        "num_generate: 2,000,000,000 characters exceed this server's limit of 1,000,000,000"
    )
    expect(page.get_by_label("Characters", exact=True)).to_have_attribute("aria-invalid", "true")
    assert text(page) == before
    generate(page, num_generate=20)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_label("Characters", exact=True)).not_to_have_attribute("aria-invalid", "true")


class Proxy:
    """Stands between page and server. Of a stream, `events` events and the beginning of the next one pass; all if it is None."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.events: int | None = None
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def turn(self, port: int) -> None:
        """Connects to another server from now on."""
        with self._lock:
            self._port = port
            self._cut()

    def cut(self, events: int | None = None) -> None:
        """Closes every connection. Lets so many events of later streams pass."""
        with self._lock:
            self.events = events
            self._cut()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open |= {near, far}
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        stream = b""
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    if answers and self.events is not None:
                        stream += data
                        events = stream.split(b"\n\n", self.events)
                        if len(events) > self.events:
                            rest = len(events[-1]) - 9
                            target.sendall(data[:-rest] if rest > 0 else data)
                            return  # until `cut`
                    target.sendall(data)
        with self._lock:
            self._end(source, target)

    def _cut(self) -> None:
        self._end(*self._open)

    def _end(self, *sockets: socket.socket) -> None:
        for one in self._open.intersection(sockets):
            self._open.remove(one)
            with suppress(OSError):  # the other side has ended it already
                one.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads from it, as closing alone would not
            one.close()


def test_a_lost_connection_is_resumed_with_nothing_lost_or_repeated(browser: Browser, client: httpx.Client) -> None:
    proxy = Proxy(client.base_url.port or 0)
    body: dict[str, Any] = {"start_string": "é語🎭", "seed": 6, "num_generate": 3000}
    try:
        with opened(browser, proxy.address) as page:
            expect(page.locator("[name=model]")).not_to_have_value("")
            sent: list[str | None] = []
            page.on("request", lambda one: sent.append(one.headers.get("last-event-id")) if "/generate" in one.url else None)
            proxy.events = 1
            at_pace(page, 100)  # the first event has one character
            fill(page, **body)
            press(page, "Generate")
            # When a connection fails, a browser discards what the page has not read. So each is cut after its event is shown.
            wait_for_text(page, 1)
            shown = page.evaluate("document.querySelector('.continuation').textContent.length")
            proxy.cut(events=1)
            wait_for_text(page, shown + 1)
            page.unroute("**/generate")
            proxy.cut()
            expect(status(page)).to_contain_text("requested length reached")
            assert sent[0] is None
            assert all(sent[1:]), "a request did not resume the text by an event id"
            assert len(set(sent)) == 3
            assert text(page) == whole(client, **body)
            expect(page.get_by_role("alert")).to_be_hidden()
    finally:
        proxy.close()


FAILED = {"error": {"code": "engine_failed", "message": "the engine failed", "type": "server_error", "param": None}}


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500, "json": FAILED},
        {"content_type": "text/event-stream", "body": f"event: error\ndata: {json.dumps(FAILED)}\n\n"},
    ],
    ids=["answer", "event"],
)
def test_a_request_to_a_failed_engine_is_retried(page: Page, client: httpx.Client, answer: dict[str, Any]) -> None:
    page.route("**/generate", lambda route: route.fulfill(**answer), times=1)
    generate(page, **BODY)
    assert text(page) == whole(client, **BODY)
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_server_is_reported_and_its_successor_resumes(
    browser: Browser, tmp_path: Path, publish: Publish, ending: signal.Signals
) -> None:
    publish()
    body: dict[str, Any] = {"start_string": "a", "seed": 8, "num_generate": 20_000}
    port = free_port()
    server = partial(service, "--models-dir", tmp_path, "--shutdown-delay", 0, "--shutdown-grace", 0.2, port=port)
    with server() as (process, _), opened(browser, f"http://127.0.0.1:{port}") as page:
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        at_pace(page, 200)
        fill(page, **body)
        press(page, "Generate")
        wait_for_text(page, 20)
        record_statuses(page)
        process.send_signal(ending)
        process.wait(timeout=60)
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("The text was interrupted.")
        assert any("Retrying" in one for one in recorded_statuses(page))
        expect(alert).to_contain_text("The text so far is kept")
        kept = text(page)
        assert 20 < len(kept) < len(body["start_string"]) + body["num_generate"]
        page.unroute("**/generate")
        with server() as (_, client):
            press(page, "Resume")
            expect(status(page)).to_contain_text("requested length reached")
            expect(alert).to_be_hidden()
            assert text(page) == whole(client, **body)
            assert text(page).startswith(kept)


def test_a_page_waits_for_the_models(browser: Browser, tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    loaded = threading.Event()

    def slowly(*arguments: Any, **options: Any) -> Any:
        assert loaded.wait(600)
        return open_backend(*arguments, **options)

    monkeypatch.setattr("service.app.open_backend", slowly)
    with run_server(create_app(Settings(models_dir=tmp_path, slots=1))) as address, opened(browser, address) as page:
        expect(page.get_by_text("The server is loading its models…")).to_have_count(1)
        fill(page, start_string="a", num_generate=9)
        press(page, "Generate")
        expect(status(page)).to_have_text("The server is loading its models…")
        loaded.set()
        expect(status(page)).to_contain_text("requested length reached")
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()


def test_a_rate_limited_page_retries_the_list_of_models(page: Page) -> None:
    error = {"code": "rate_limited", "message": "more than 1 per 1 second requests", "type": "rate_limit_error", "param": None}
    page.route("**/models", lambda route: route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": error}))
    page.reload()
    expect(page.get_by_text("Too many requests.")).to_be_visible()
    page.unroute("**/models")
    expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()


# --- the API key

KEY, OTHER_KEY, WRONG_KEY = "right-key-0123456789", "other-key-0123456789", "wrong-key-0123456789"


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    """The address of a server with API keys."""
    with serving(with_key(models, KEY)) as (_, client):
        yield str(client.base_url)


@pytest.fixture
def keyed(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


def with_key(models: Path, key: str) -> Settings:
    return Settings(models_dir=models, default_model="tiny", slots=2, api_keys=SecretStr(key))


def key_field(page: Page) -> Locator:
    return page.get_by_label("API key")


def give(page: Page, key: str) -> None:
    """By the keyboard, in the field that has the focus already."""
    expect(key_field(page)).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")


def test_the_page_asks_for_a_key_and_continues(browser: Browser, address: str, keyed: httpx.Client) -> None:
    with opened(browser, address) as page:
        asked: list[Request] = []
        page.on("request", lambda one: asked.append(one))
        been: list[str] = []
        page.on("framenavigated", lambda frame: been.append(frame.url))
        expect(page.get_by_text("This server requires an API key.")).to_be_visible()
        assert key_field(page).get_attribute("type") == "password"
        give(page, WRONG_KEY)
        expect(page.get_by_role("alert")).to_have_text("The server does not accept this key.")
        expect(key_field(page)).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("heading", name="tiny, version 1")).to_have_count(0)
        give(page, KEY)  # in the place of the wrong one
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        expect(key_field(page)).to_be_hidden()
        expect(page.get_by_role("alert")).to_be_hidden()
        page.get_by_label("Tint by probability").check()
        generate(page, **BODY)
        assert text(page) == whole(keyed, **BODY)
        assert [one.headers["authorization"] for one in asked if "/generate" in one.url] == [f"Bearer {KEY}"]
        page.wait_for_url(re.compile("tint=on"))
        kept = page.evaluate("[document.cookie, JSON.stringify(localStorage), document.documentElement.outerHTML]")
        for place in (*kept, *been, *(one.url for one in asked)):
            assert KEY not in place
            assert WRONG_KEY not in place


def test_a_key_that_cannot_be_sent_is_rejected(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        give(page, "schlüssel 🎭 0123456789")
        expect(page.get_by_role("alert")).to_have_text("The server does not accept this key.")
        give(page, f" {KEY} ")
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()


def test_a_request_without_a_key_waits_for_one(browser: Browser, address: str, keyed: httpx.Client) -> None:
    with opened(browser, address) as page:
        expect(key_field(page)).to_be_focused()
        fill(page, **BODY)
        press(page, "Generate")
        expect(status(page)).to_have_text("Waiting for an API key…")
        press(page, "Stop")
        expect(status(page)).to_have_text("Stopped.")
        press(page, "Generate")
        expect(status(page)).to_have_text("Waiting for an API key…")
        page.evaluate("() => { const now = performance.now.bind(performance); performance.now = () => now() + 1e9; }")  # days pass
        give(page, KEY)
        expect(status(page)).to_contain_text("requested length reached")
        assert text(page) == whole(keyed, **BODY)
        shown = (page.locator("#ttft").text_content() or "").removesuffix(" ms").replace(",", "")
        assert 0 < float(shown) < 1e8, "the key's time is not the server's"


def test_a_key_lasts_until_its_tab_is_closed_or_it_is_removed(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        expect(page.get_by_role("button", name="Remove key")).to_be_hidden()
        give(page, KEY)
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        expect(key_field(page)).to_be_hidden()
        another = page.context.new_page()
        another.goto("/")
        expect(key_field(another)).to_be_visible()
        another.close()
        press(page, "Remove key")
        for _ in range(2):
            expect(page.get_by_role("alert")).to_have_text("This server requires an API key.")
            expect(key_field(page)).to_be_focused()
            expect(page.get_by_role("button", name="Remove key")).to_be_hidden()
            page.reload()
        give(page, KEY)
        expect(page.get_by_role("button", name="Remove key")).to_be_visible()


def test_the_page_asks_again_when_its_key_is_no_longer_accepted(browser: Browser, models: Path, keyed: httpx.Client) -> None:
    with serving(with_key(models, OTHER_KEY)) as (_, other):
        proxy = Proxy(keyed.base_url.port or 0)
        try:
            with opened(browser, proxy.address) as page:
                give(page, KEY)
                generate(page, **BODY)
                proxy.turn(other.base_url.port or 0)
                fill(page, num_generate=99)
                press(page, "Generate")
                expect(page.get_by_role("alert")).to_have_text("The server no longer accepts the stored key.")
                expect(page.get_by_role("button", name="Remove key")).to_be_hidden()
                give(page, OTHER_KEY)
                expect(status(page)).to_have_text("99 characters: requested length reached.")
                assert text(page) == whole(keyed, **{**BODY, "num_generate": 99})
        finally:
            proxy.close()


def test_the_curl_command_reads_the_key_from_the_environment(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        give(page, KEY)
        generate(page, start_string="It's $HOME", num_generate=30)
        press(page, "Copy as curl")
        expect(status(page)).to_have_text("Command copied.")
        command = page.evaluate("navigator.clipboard.readText()")
        assert KEY not in command
        environment = {**os.environ, "FOLIO_API_KEY": KEY}
        finished = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=120, env=environment)
        *texts, _ = events([finished.stdout])
        assert "It's $HOME" + "".join(event.data["text"] for event in texts) == text(page)


def test_a_models_files_are_shown_with_a_key_too(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        give(page, KEY)
        curve = page.get_by_role("img", name="Loss curve of tiny, version 1")
        expect(curve).to_be_visible()
        assert curve.evaluate("async image => (await image.decode(), image.naturalWidth)") == 1
        sample = page.get_by_role("link", name="sample.txt")
        copy = curve.get_attribute("src")
        assert page.locator("#loss a").get_attribute("href") == copy
        there = "copy => Object.assign(new Image(), { src: copy }).decode().then(() => true, () => false)"
        assert page.evaluate(there, copy)
        page.get_by_label("Model", exact=True).select_option("other")
        expect(page.get_by_role("heading", name="other, version 1")).to_be_visible()
        expect(page.get_by_role("img")).to_have_count(0)
        expect(sample).to_have_count(0)
        assert not page.evaluate(there, copy)  # the copy has been released
        page.get_by_label("Model", exact=True).select_option("tiny")
        expect(curve).to_be_visible()
        sample.click()
        expect(page.locator("body")).to_have_text(SAMPLE.strip())


def test_without_keys_the_page_does_not_mention_them(page: Page) -> None:
    generate(page, **BODY)
    expect(key_field(page)).to_be_hidden()
    assert "API key" not in page.locator("body").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_key_field_is_no_wider_than_a_phone_and_its_words_are_legible(browser: Browser, address: str, scheme: str) -> None:
    with opened(browser, address, viewport={"width": 360, "height": 640}, color_scheme=scheme) as page:
        colors = "one => [getComputedStyle(one).color, getComputedStyle(one.closest('form')).backgroundColor]"
        for says in ("This server requires an API key.", "The server does not accept this key."):
            expect(page.get_by_role("alert")).to_have_text(says)
            assert width(page) <= 360
            ink, paper = sorted(luminance(color) for color in page.get_by_role("alert").evaluate(colors))
            assert (paper + 0.05) / (ink + 0.05) >= 4.5
            give(page, WRONG_KEY)


# --- the model


def test_the_start_string_begins_as_the_models_suggestion(browser: Browser, tmp_path: Path) -> None:
    digits = Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=list("\n0123456789"))
    publish(tmp_path, "digits", 1, digits, {"sample.txt": b"2718\n281828"})
    publish(tmp_path, "tiny", 2, ARCHITECTURE, {"sample.txt": SAMPLE.encode()})
    publish(tmp_path, "without", 3, digits)
    with (
        serving(Settings(models_dir=tmp_path, default_model="digits")) as (_, client),
        opened(browser, str(client.base_url)) as page,
    ):
        field = page.get_by_label("Start string")
        expect(field).to_have_value("2718\n")
        generate(page, num_generate=20)
        page.locator("[name=model]").select_option("tiny")
        expect(field).to_have_value(SAMPLE)
        page.locator("[name=model]").select_option("without")
        expect(field).to_have_value("0")
        field.fill("314")
        page.locator("[name=model]").select_option("tiny")
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        expect(field).to_have_value("314")


def test_a_models_facts_and_loss_curve_are_shown(page: Page) -> None:
    facts = page.locator("#facts > div").all_text_contents()
    assert "Score full_pass1.423 nats per characterheld-out text, state carried throughout; 1.424 in int8" in facts
    assert "Score cold_2561.435 nats per characterheld-out text, windows of 256 characters; 1.434 in int8" in facts
    assert f"Vocabulary{len(ARCHITECTURE.vocabulary)} characters" in facts
    assert "Recipenone" in facts
    assert "Published1 January 2026" in facts
    assert any(re.fullmatch(r"Parameters[\d,]+", fact) for fact in facts)
    curve = page.get_by_role("img", name="Loss curve of tiny, version 1")
    expect(curve).to_be_visible()
    assert curve.evaluate("async image => (await image.decode(), image.naturalWidth)") == 1
    sample = page.get_by_role("link", name="sample.txt")
    assert [curve.get_attribute("src"), sample.get_attribute("href")] == [
        page.evaluate("name => new URL(`models/tiny/${name}`, location).href", name) for name in ("loss.png", "sample.txt")
    ]
    page.get_by_label("Model", exact=True).select_option("other")
    expect(page.get_by_role("heading", name="other, version 1")).to_be_visible()
    expect(page.get_by_role("img")).to_have_count(0)
    facts = page.locator("#facts > div").all_text_contents()
    assert "Score full_passno held-out textheld-out text, state carried throughout" in facts


# --- for everybody


def test_every_control_has_a_name_and_nothing_is_read_out_character_by_character(page: Page) -> None:
    page.get_by_label("Tint by probability").check()
    record_statuses(page)
    generate(page, start_string="Romeo", num_generate=500)
    assert set(recorded_statuses(page)) == {"Generating…", "500 characters: requested length reached."}
    assert page.locator("#text").evaluate("text => text.closest('[aria-live], [role=status], [role=alert], [role=log]')") is None
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = {
        "button",
        "textbox",
        "slider",
        "spinbutton",
        "combobox",
        "switch",
        "checkbox",
        "link",
        "listbox",
        "DisclosureTriangle",
    }
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert [role for role, name in named if role in controls and not name.strip()] == []
    assert {role for role, _ in named} >= {"button", "textbox", "slider", "spinbutton", "combobox", "switch", "listbox", "status"}


def test_every_control_is_reached_by_keyboard(page: Page) -> None:
    page.get_by_label("Start string").focus()
    page.keyboard.press("Control+Enter")
    expect(status(page)).to_contain_text("requested length reached")
    reached = []
    while page.evaluate("document.activeElement.id || document.activeElement.tagName") != "BODY":
        reached.append(page.evaluate("document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"{reached[-1]} does not show that it has the focus"
        page.keyboard.press("Tab")
    order = ["start_string", "generate", "stop-button", "model", "temperature", "top_p", "min_p", "top_k", "num_generate"]
    order += ["allowed_characters", "stop", "seed", "keep-seed", "tint", "continue", "copy-text", "copy-curl"]
    assert [one for one in reached if one] == order


def width(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, client: httpx.Client, scheme: str) -> None:
    with opened(browser, str(client.base_url), viewport={"width": 360, "height": 640}, color_scheme=scheme) as page:
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        assert width(page) <= 360
        page.get_by_text("Settings", exact=True).click()
        assert width(page) <= 360
        page.get_by_label("Tint by probability").check()
        generate(page, start_string="Romeo", num_generate=600, allowed_characters="ab")  # one long word
        assert width(page) <= 360
        for index in range(0, 40, 3):
            characters_of(page).nth(index).hover()
            expect(page.locator("#alternatives")).to_be_visible()
            assert width(page) <= 360
        fill(page, start_string="ß" * 300)
        press(page, "Generate")
        expect(page.get_by_role("alert")).to_be_visible()
        assert width(page) <= 360


def test_nothing_blinks_with_reduced_motion(browser: Browser, client: httpx.Client) -> None:
    caret = "getComputedStyle(document.querySelector('.continuation'), '::after').animationName"
    for motion, animation in (("no-preference", "blink"), ("reduce", "none")):
        with opened(browser, str(client.base_url), reduced_motion=motion) as page:
            at_pace(page, 50)
            fill(page, start_string="a", num_generate=100_000)
            press(page, "Generate")
            wait_for_text(page, 1)
            assert page.evaluate(caret) == animation


def test_a_run_leaves_nothing_in_the_console(browser: Browser, client: httpx.Client) -> None:
    said: list[str] = []
    with opened(browser, str(client.base_url)) as page:
        page.on("console", lambda message: said.append(message.text))
        page.reload()
        expect(page.get_by_role("heading", name="tiny, version 1")).to_be_visible()
        page.get_by_label("Tint by probability").check()
        generate(page, **BODY)
        characters_of(page).nth(5).hover()
        press(page, "Continue from here")
        expect(status(page)).to_contain_text("requested length reached")
    assert said == []
