"""What a benchmark ran on: CPU, memory, packages. Figures from different machines, or different runs, don't compare."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainer.resources import cores

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  # what products on CPUs depend on most

PACKAGES = (
    *("numpy", "tensorflow-cpu", "tensorflow", "keras", "torch"),
    *("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "litserve"),
)


def describe() -> dict[str, str]:
    """One line for each thing worth knowing."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(cores()),
        "flags": " ".join(flag for flag in FLAGS if flag in (_cpuinfo("flags") or "").split()) or "unknown",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    }


def _cpuinfo(field: str) -> str | None:
    """A field of Linux's /proc/cpuinfo, of the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
