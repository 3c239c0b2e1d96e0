"""Lets glibc's allocator return a freed model's memory to the system. Does nothing with other C libraries.

glibc maps each large block by itself and unmaps it when it is freed. But every such free raises the size from which blocks are
mapped. Later large blocks then go to the heap, where small blocks behind them keep their memory from being returned. After 50 swaps
of a model, the process held twice the memory of one model.
"""

import ctypes
import gc
import sys

LARGE = 128 * 1024  # bytes; glibc's initial threshold
M_MMAP_THRESHOLD = -3  # of <malloc.h>


def map_large_blocks() -> None:
    """Fixes the threshold at its initial value."""
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


def release_free_memory() -> None:
    """Collects garbage and returns all free memory to the system."""
    gc.collect()  # reference cycles may hold a model's weights, and the service allocates too little to trigger a collection
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
