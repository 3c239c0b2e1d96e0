"""Runs a program with the kernel built for one of gcc's sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.generation.kernel.build import build


def check_by_sanitizer(folder: Path, sanitizer: str, program: str) -> None:
    """Fails the test if the sanitizer finds something. program: Python code, whose first argument is the library's path."""
    runtime = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}[sanitizer]
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here, whose sanitizers these are")
    found = subprocess.run([compiler, f"-print-file-name={runtime}"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"gcc has no {runtime} here")
    library = build(folder, [compiler], flags=(f"-fsanitize={sanitizer}", "-fno-sanitize-recover", "-g"))
    # Python's own memory is not freed at its end, and OpenBLAS's threads are not built with the sanitizer.
    variables = {"LD_PRELOAD": found, "ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(library)], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Sanitizer" not in done.stderr, done.stderr[-3000:]
    assert "runtime error" not in done.stderr, done.stderr[-3000:]
