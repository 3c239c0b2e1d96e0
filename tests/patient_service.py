"""`python -m tests.patient_service`: `python -m service`, but a constraint may take long to compile: the machine may be busy."""

import sys

from service.__main__ import main
from service.generation.constraints import compiler

# `compiler` starts its worker with this code. The worker has a limit of its own.
_PATH, _, _MAIN = compiler.WORKER.partition("from ")
_LONGER = "import service.generation.constraints.worker as worker; worker.SECONDS = 600; worker."
LIMITS = {"SECONDS": 300.0, "WORKER": _PATH + _LONGER + _MAIN.partition("import main; ")[2]}

if __name__ == "__main__":
    for name, value in LIMITS.items():
        setattr(compiler, name, value)
    sys.exit(main(sys.argv[1:]))
