"""The workflows have the shape that GitHub documents. Nothing here runs them."""

import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).parents[2] / ".github" / "workflows"


@pytest.mark.slow
def test_workflows_have_githubs_schema() -> None:
    files = sorted(WORKFLOWS.glob("*.yml"))
    assert {"gate.yml", "release.yml"} <= {file.name for file in files}
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
