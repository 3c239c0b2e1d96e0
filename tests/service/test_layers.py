"""Who imports whom."""

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

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


LAYERS = ("service.app", "service.api", "service.registry", "service.generation", "trainer.artifact")  # as in docs/architecture.md


def imports_of(package: str) -> dict[str, set[str]]:
    """By module of the package, or for the module itself: what it imports."""
    path = ROOT.joinpath(*package.split("."))
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): imported(file) for file in files}


@pytest.mark.parametrize("layer", range(1, len(LAYERS)))
def test_no_layer_imports_one_above_it(layer: int) -> None:
    found = imports_of(LAYERS[layer])
    assert found
    for module, names in found.items():
        for above in LAYERS[:layer]:
            assert not [name for name in names if f"{name}.".startswith(f"{above}.")], module


def test_four_files_of_the_trainer_import_the_service() -> None:
    importing = {module for module, names in imports_of("trainer").items() if any(name.startswith("service") for name in names)}
    assert importing == {f"trainer.{name}" for name in ("served", "sampling", "teachers", "scan_library")}


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
