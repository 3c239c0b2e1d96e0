"""What this machine offers: cores, memory, disk, how its CPU computes, and which workers train with it. Knows no TensorFlow."""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

PARTS = 2  # of a batch; chosen on two cores
PART_ROWS = 16  # the fewest rows of a part: in parts of 8 a network of 1024 units trains a fifth more slowly than whole
SCORED_ROWS = 64  # windows of a held-out text scored at a time, at most
SCORED_STEPS = 128  # characters of each scored in one call, at most
SCORED_LOGITS = 1 << 24  # computed in one call, at most: 64 MiB, so memory stays bounded however large the vocabulary is
CGROUP = Path("/sys/fs/cgroup")  # a container's limits (cgroup v2)
UNLIMITED = "max"


class ClusterError(ValueError):
    """TF_CONFIG does not say which workers there are."""


class TooLarge(ValueError):
    """The run does not fit this machine's memory or disk."""


class Position(NamedTuple):
    """How many workers train together, and which of them this process is."""

    workers: int
    worker: int


def count_parts(rows: int) -> int:
    """How many parts a batch runs in, side by side (see `trainer.recurrence`)."""
    return PARTS if rows % PARTS == 0 and rows >= PARTS * PART_ROWS else 1


def count_rows(vocabulary: int) -> int:
    """How many rows of a held-out text are scored at a time, with a vocabulary of so many characters."""
    return max(1, min(SCORED_ROWS, SCORED_LOGITS // vocabulary))


def count_steps(rows: int, vocabulary: int) -> int:
    """How many characters of each row are scored in one call."""
    return max(1, min(SCORED_STEPS, SCORED_LOGITS // (rows * vocabulary)))


def cores() -> int:
    """Cores that this process may use: of those it may run on, as many as its container's share of time comes to."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read_limit("cpu.max").partition(" ")
    return here if quota == UNLIMITED else max(1, min(here, math.ceil(int(quota) / int(period))))


def share_cores(rows: int) -> None:
    """Gives each part of a batch a share of the cores. To be called before TensorFlow is imported."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores() // count_parts(rows))))


def read_position() -> Position:
    """What TF_CONFIG says, else one worker alone. Raises ClusterError."""
    if "TF_CONFIG" not in os.environ:
        return Position(1, 0)
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        addresses, task = config["cluster"]["worker"], config["task"]
        index = int(task["index"])
        if task["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError(f"task is {task}, the workers are 0 to {len(addresses) - 1}")
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(
            f"TF_CONFIG: {type(error).__name__}: {error}; expected "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return Position(len(addresses), index)


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself, as far as Linux tells."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def read_memory() -> int:
    """Bytes of memory this process may use: the machine's, or less where its container says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    limit = _read_limit("memory.max")
    return machine if limit == UNLIMITED else min(machine, int(limit))


def _read_limit(name: str) -> str:
    try:
        return (CGROUP / name).read_text().strip()
    except OSError:
        return UNLIMITED
