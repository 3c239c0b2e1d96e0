"""The C of the step and of the recurrence, built for gcc's sanitizers."""

from pathlib import Path

import pytest

from service.generation.kernel.build import build
from tests import sanitized

CHECK = """
import sys
from pathlib import Path
from service.generation.native import Library
from tests.service.generation.exact_calls import check_call, network
from tests.trainer import scan_calls
from trainer.scan_library import RunOptions, ScanLibrary

step = Library(Path(sys.argv[1]))
for cell, layers, vocabulary in (("gru", 1, 33), ("lstm", 2, 33), ("gru", 1, 1100)):
    n = network(cell, layers, 65, vocabulary)
    for instructions in step.instructions:
        for threads in (1, 3):
            native = step.open(n, 20, threads, instructions)
            for rows in (1, 2, 20):
                for fewer in range(1, threads + 1):
                    check_call(n, native, rows, 4, fewer)
            del native

scan = ScanLibrary(Path(sys.argv[1]))
for instructions in scan.instructions:
    for cell in ("gru", "lstm"):
        for size in scan_calls.SIZES:
            for vocabulary in (0, 7):
                scan_calls.check(scan, scan_calls.layer(cell, *size, vocabulary), RunOptions(3, instructions))
"""


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_a_sanitizer_finds_nothing(tmp_path: Path, sanitizer: str) -> None:
    compiler, runtime = sanitized.find_compiler("gcc", sanitizer)
    library = build(tmp_path, [compiler], flags=(f"-fsanitize={sanitizer}", "-fno-sanitize-recover", "-g", "-O1"))
    sanitized.check(CHECK, library, runtime=runtime)
