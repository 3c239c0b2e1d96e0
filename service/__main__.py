"""python -m service: serves the models folder over HTTP; python -m service generate: continues a text on the terminal."""

import logging
import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from service import logs, memory
from service.app import create_app
from service.server import Server, allow_many_connections
from service.settings import Settings
from service.tracing import TracingMissing

log = logging.getLogger(__name__)


def main() -> int:
    """Serves until told to stop, then returns 0; 1 where it can't listen, 2 for settings that can't be."""
    if sys.argv[1:2] == ["generate"]:
        from service.command import generate

        return generate(sys.argv[2:])
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        return _fail("; ".join(_said(fault["loc"], fault["msg"]) for fault in error.errors()))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on instruction sets help nobody here
    logs.configure(settings.log_format)
    allow_many_connections()
    memory.map_large_blocks()
    try:
        app = create_app(settings)
        Server(app, settings).run()
        if app.state.stuck:
            log.warning("not waiting any longer for what has not ended")
            logging.shutdown()
            os._exit(0)  # a thread in a library's hands may crash the interpreter that ends around it
    except TracingMissing as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 0
    except SystemExit as stopped:  # uvicorn's own code where it can't listen
        return 1 if stopped.code else 0
    return 0


def _said(place: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"--{str(place[0]).replace('_', '-')}: {message}" if place else message


def _fail(message: str) -> int:
    print(f"python -m service: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
