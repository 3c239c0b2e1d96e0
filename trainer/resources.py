"""The CPU cores and the memory that this process may use. Does not import TensorFlow."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # a container's limits (cgroup v2)
UNLIMITED = "max"


def cores() -> int:
    """The number of cores that this process may use: its CPU affinity, limited by its container's CPU quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read_limit("cpu.max").partition(" ")
    return available if quota == UNLIMITED else max(1, min(available, math.ceil(int(quota) / int(period))))


def cpu_has_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions."""
    flags = cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_flags() -> str:
    """The text of /proc/cpuinfo, which lists the CPU's instruction sets. Empty where there is no such file."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def read_memory() -> int:
    """Bytes of memory that this process may use: the physical memory, limited by its container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    limit = _read_limit("memory.max")
    return physical if limit == UNLIMITED else min(physical, int(limit))


def _read_limit(name: str) -> str:
    try:
        return (CGROUP / name).read_text().strip()
    except OSError:
        return UNLIMITED
