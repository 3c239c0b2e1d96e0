"""python -m service: serves the models folder over HTTP."""

import logging
import os
import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.app import create_app
from service.settings import Settings


def main() -> int:
    """Serves until told to stop; returns 2 for settings that can't be."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        faults = "; ".join(f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}" for fault in error.errors())
        print(f"python -m service: error: {faults}", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on instruction sets help nobody here
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=settings.shutdown_grace,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
