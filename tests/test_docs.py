"""The documentation agrees with the project: links, options, make targets, modules."""

import re
from pathlib import Path

import pytest

from tests import option_tables

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("tests/*/*.md")} - {*ROOT.glob(".*/*.md")})
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.mark.parametrize("page", option_tables.PAGES)
def test_tables_of_options_are_the_settings(page: str) -> None:
    assert (option_tables.DOCS / page).read_text() == option_tables.renewed(page), "renew them: python -m tests.option_tables"


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for place, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / place if place else page
        assert target.exists(), place
        headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@every_page
def test_commands_exist(page: Path) -> None:
    text, targets = page.read_text(), re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target
    for module in re.findall(r"python -m ((?:service|trainer|tests|benchmarks)[\w.]*\w)|serve run ([\w.]+):app", text):
        path = ROOT / "".join(module).replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_every_example_is_short() -> None:
    for example in (ROOT / "examples").glob("*.py"):
        assert len(example.read_text().splitlines()) < 40, example


@every_page
def test_files_that_it_names_exist(page: Path) -> None:
    for file in re.findall(
        r"`((?:service|trainer|tests|benchmarks|examples|docs|observe|compose|requirements)/[\w/.-]+)`", page.read_text()
    ):
        assert (ROOT / file).exists(), file
