"""Who imports whom."""

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
API = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "service" / "api").rglob("*.py")}


def imported(module: Path) -> set[str]:
    """All names of modules that the module imports, or imports from."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def floors(modules: Mapping[str, Path]) -> dict[str, int]:
    """Each module's floor: 1 without an import of another one, else one above the highest that it imports."""

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(other) for other in imported(modules[name]) & modules.keys()), default=0)

    return {name: floor(name) for name in modules}


def test_no_route_imports_a_middleware() -> None:
    assert "service.api.errors" in imported(API["service.api.generate"]), "imports are found"
    assert not [name for name, path in API.items() for one in imported(path) if one.startswith("service.middleware")]


def test_the_api_has_four_floors() -> None:
    assert max(floors(API).values()) == 4


def test_generation_knows_no_http_and_the_core_no_thread_of_its_own() -> None:
    for path in (ROOT / "service" / "generation").rglob("*.py"):
        assert not [name for name in imported(path) if name.startswith(("service.api", "fastapi", "starlette", "uvicorn"))], path
    for name in ("core", "scheduler", "request", "delivery"):
        assert "asyncio" not in imported(ROOT / "service" / "generation" / f"{name}.py")
