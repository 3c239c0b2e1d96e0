"""The command folio: its help, its version, its list of models, and which code it runs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service import folio, included
from service.included import default_models_dir, included_models
from service.models_folder import PINNED
from service.settings import Settings
from tests.support import ARCHITECTURE, VOCABULARY, Publish
from trainer import __version__
from trainer.program import invocation, program

ROOT = Path(__file__).parents[2]


def test_the_help_fits_a_screen_and_imports_nothing_that_takes_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert folio.run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    commands = {line.split()[0] for line in lines if line.startswith("  ")}
    assert commands == {"serve", "generate", "models", "export", "train", "evaluate"}
    script = "import sys; from service import folio; folio.run(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "pydantic", "fastapi", "tensorflow"} & {*done.stdout.split()}


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert folio.run(["--version"]) == 0
    assert capsys.readouterr().out == f"folio {__version__}\n"


def test_an_unknown_command_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert folio.run(["srve"]) == 2
    assert capsys.readouterr().err == "folio: error: there is no command 'srve'; `folio --help` lists them\n"
    assert folio.run([]) == 2
    assert "usage: folio COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "generate", "train", "evaluate"])
def test_each_command_is_called_as_it_was_started(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program(command).startswith("python -m ")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/folio", command])
    assert program(command) == f"folio {command}"
    assert invocation(command) == ["folio", command]


def test_a_suggested_command_names_the_python_that_has_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    monkeypatch.setattr(sys, "argv", ["trainer/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", "/nowhere")
    assert invocation("train") == [str(python), "-m", "trainer"]
    monkeypatch.chdir(tmp_path)
    assert invocation("evaluate") == [".venv/bin/python", "-m", "trainer", "evaluate"]
    monkeypatch.setenv("PATH", str(python.parent))  # as in an activated environment
    assert invocation("train") == ["python", "-m", "trainer"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "generate", "train", "evaluate", "models", "export"])
def test_every_command_has_a_help_under_its_own_name(command: str) -> None:
    script = f"import sys; sys.argv = ['folio', '{command}', '--help']; from service.folio import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"usage: folio {command} " in done.stdout


def test_models_lists_the_version_that_is_served(publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dao", "dao"):
        publish(name)
    publish("bard", scores={"full_pass": 1.5, "cold_256": 1.6})
    (tmp_path / "dao" / PINNED).write_text("1")
    assert folio.run(["models", "--models-dir", str(tmp_path)]) == 0
    headings, bard, dao = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert headings == ["NAME", "VERSION", "OTHERS", "NETWORK", "PARAMETERS", "CHARACTERS", "SCORE", "CREATED"]
    parameters, characters = f"{ARCHITECTURE.parameter_count:,}", str(len(VOCABULARY))
    assert bard == ["bard", "1", "-", "gru", "1", "x", "24", parameters, characters, "1.6000", "2026-01-01"]
    assert dao == ["dao", "1", "2", "gru", "1", "x", "24", parameters, characters, "-", "2026-01-01"]


def test_models_and_export_obey_the_servers_variables(
    publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dao", "bard"):
        publish(name)
    monkeypatch.setenv("SERVICE_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("SERVICE_DEFAULT_MODEL", "dao")
    assert folio.run(["models"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}:\n")
    assert folio.run(["export", "--tokenizer", str(tmp_path / "tokenizer.json")]) == 0
    assert str(tmp_path / "dao" / "1") in capsys.readouterr().out
    monkeypatch.setenv("SERVICE_PORT", "99999999")
    for command in (["models"], ["export", "--tokenizer", str(tmp_path / "tokenizer.json")]):
        assert folio.run(command) == 1
        assert "error: SERVICE_PORT: " in capsys.readouterr().err


def test_a_copy_under_another_name_is_not_listed(publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server refuses it."""
    publish("bard")
    shutil.copytree(tmp_path / "bard", tmp_path / "mine")
    assert folio.run(["models", "--models-dir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "mine/1: was published as bard/1" in said.err
    assert len(said.out.splitlines()) == 3


def test_models_that_cannot_be_listed_are_an_error(publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folio.run(["models", "--models-dir", str(tmp_path)]) == 1
    assert "holds no published version" in capsys.readouterr().err
    publish("bard")
    (publish("dao").path / "config.json").write_text("no JSON")
    assert folio.run(["models", "--models-dir", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "bard" in said.out
    assert "dao/1/config.json: not JSON" in said.err


def test_without_a_folder_models_the_included_model_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().models_dir == included_models() == ROOT / "models"
    assert Settings.model_validate({"models_dir": "mine"}).models_dir == Path("mine"), "a folder that was named is never replaced"
    (tmp_path / "models").mkdir()
    assert Settings().models_dir == Path("models")


def test_code_without_a_model_means_the_folder_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(included, "FOLDERS", (tmp_path / "none",))
    assert default_models_dir() == Path("models")
