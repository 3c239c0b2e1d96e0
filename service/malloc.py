"""Returns memory to the system when a model is freed: glibc's allocator would keep much of it. Elsewhere nothing is done.

glibc maps large blocks on their own, and unmaps them when they are freed. Each such free raises glibc's mmap threshold, so later
large blocks land on the heap, where small neighbours keep them from being returned. After 50 swaps of a model the process held
twice the memory of one.
"""

import ctypes
import gc
import sys

LARGE = 128 * 1024  # bytes; glibc's initial threshold
M_MMAP_THRESHOLD = -3  # of <malloc.h>


def map_large_blocks() -> None:
    """Keeps the threshold where it is."""
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Returns to the system what nothing refers to any more, free blocks between used ones included."""
    gc.collect()  # reference cycles may hold a model's weights, and too little is allocated here to trigger the collector
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
