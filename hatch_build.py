"""Adds the kernel's library and the included model to a wheel, and names the platform that the library is for.

FOLIO_WHEEL: the platform to build for, one of PLATFORMS. Its library is cross-compiled by the package ziglang. Without it, any C
compiler builds the library for this machine, and the wheel says no more than that.
"""

import os
import tempfile
from functools import cached_property
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

PLATFORMS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
}
"""zig's target for each platform. It sets the oldest glibc or macOS that the library works with, as the platform's name says."""
COMPILER = "ziglang>=0.17"
KERNEL = "service/generation/kernel"


class Hook(BuildHookInterface[Any]):
    """Does nothing for an sdist or an editable installation, which finds model and kernel in the clone."""

    def dependencies(self) -> list[str]:
        """A compiler, where the build needs one that is not installed."""
        wanted = self.target_name == "wheel" and (self._platform or not self._kernel.compilers())
        return [COMPILER] if wanted else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        included = Path(self.root, "models", "shakespeare")
        files = {str(path): f"service/models/shakespeare/{path.name}" for path in included.iterdir() if path.name.isdigit()}
        try:
            library = self._build()
            files[str(library)] = f"{KERNEL}/{library.name}"
            own = (tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
            build_data |= {"pure_python": False, "tag": f"py3-none-{self._platform or next(own)}"}
        except self._kernel.NoCompiler as error:
            if self._platform:
                raise
            self.app.display_warning(f"The kernel is not built, so the service uses the slower NumPy step: {error}")
        build_data["force_include"] |= files

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - the interface
        self._scratch.cleanup()

    def _build(self) -> Path:
        """The library, in a folder that lasts until the wheel is written. Raises the kernel's NoCompiler."""
        folder = Path(self._scratch.name)
        if self._platform:
            target, package = PLATFORMS[self._platform], find_spec("ziglang")
            if package is None or not package.submodule_search_locations:
                raise self._kernel.NoCompiler(f"a wheel for {self._platform} needs the package {COMPILER}")
            compiler = self._kernel.zig(Path(package.submodule_search_locations[0]), target)
            library: Path = self._kernel.build(folder, compiler, target.partition("-")[0])
        else:
            library, _ = self._kernel.build_by_any(self._kernel.compilers(), folder)
        return library

    @property
    def _platform(self) -> str:
        return os.environ.get("FOLIO_WHEEL", "")

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="folio-wheel-")

    @cached_property
    def _kernel(self) -> ModuleType:
        """build.py, which imports nothing else of the project."""
        spec = spec_from_file_location("folio_kernel", Path(self.root, KERNEL, "build.py"))
        if spec is None or spec.loader is None:
            raise ImportError(f"{KERNEL}/build.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
