"""Has memory go back to the system when a model is freed: glibc's allocator would keep much of it. Elsewhere nothing is done.

glibc maps large blocks on their own, and unmaps them when they are freed. But whenever one is freed it takes blocks of that size
for usual, and has further ones lie among small ones, which keep what is about them. With models that come and go, 50 swaps
left twice the memory of one.
"""

import ctypes
import gc
import sys

LARGE = 128 * 1024  # bytes; glibc's own threshold at first
M_MMAP_THRESHOLD = -3  # of <malloc.h>


def map_large_blocks() -> None:
    """Holds the threshold where it is."""
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Returns to the system what nothing refers to any more, and what lies free between what is used."""
    gc.collect()  # what refers to itself may hold a model's weights, and would for long: little else is allocated
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
