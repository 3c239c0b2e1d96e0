import ast
from pathlib import Path

import service.api

MODULES = sorted(Path(service.api.__file__).parent.rglob("*.py"))


def imported(module: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_route_imports_a_middleware() -> None:
    found = {module.name: imported(module) for module in MODULES}
    assert "service.api.errors.ApiError" in found["models.py"], "imports are found"
    assert not [name for name, names in found.items() for one in names if one.startswith("service.middleware")]
