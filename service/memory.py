"""Where memory goes that is given back: glibc's allocator keeps much of it for later. Elsewhere nothing is done.

A model that is swapped takes a hundred megabytes for a moment, from several threads. By itself glibc gives each thread an arena
of its own, and what is freed lies about in all of them: 50 swaps left twice the memory that one model needs.
"""

import ctypes
import sys

ARENAS = 2
M_ARENA_MAX = -8  # of <malloc.h>


def share_arenas() -> None:
    """Has all threads share a few; to be called before they start."""
    if libc := _glibc():
        libc.mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Returns to the system what lies free at the ends and in the middle of the arenas."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
