"""The command `llm`, with a model of a file of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.clients.processes import Server
from tests.clients.texts import LENGTH, QUESTION, SEED, reply


def test_a_prompt_returns_the_text(server: Server, tmp_path: Path) -> None:
    model = {"model_id": "folio", "model_name": server.model, "api_base": server.v1, "api_key_name": "folio"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
    (tmp_path / "keys.json").write_text(json.dumps({"folio": "none"}))
    options = ["-o", "max_tokens", str(LENGTH), "-o", "seed", str(SEED)]
    command = [sys.executable, "-m", "llm", "-m", "folio", *options, QUESTION]
    done = subprocess.run(command, env=os.environ | {"LLM_USER_PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{reply(server)}\n"
