"""Python that runs under gcc's sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}


def find_compiler(name: str, sanitizer: str) -> tuple[str, Path]:
    """(The compiler gcc or g++, its library of the sanitizer). Skips the test where there is none."""
    compiler, library = shutil.which(name), RUNTIMES[sanitizer]
    if compiler is None:
        pytest.skip(f"no {name} here, whose sanitizers these are")
    found = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{name} has no {library} here")
    return compiler, Path(found).resolve()


def check(code: str, *arguments: object, runtime: Path, **variables: str) -> None:
    """Runs the code, in which the sanitizer may find nothing."""
    # Python's own memory is not freed at its end, and OpenBLAS's threads are not built with the sanitizer.
    needed = {"LD_PRELOAD": str(runtime), "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | needed | variables, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:  # older libraries do not know the 32 random bits of newer kernels
        pytest.skip("the sanitizer does not support this kernel's randomization of addresses (vm.mmap_rnd_bits)")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Sanitizer" not in done.stderr, done.stderr[-3000:]
    assert "runtime error" not in done.stderr, done.stderr[-3000:]
