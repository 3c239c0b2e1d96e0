"""python -m service: serves the models folder over HTTP; python -m service generate: continues a text on the terminal.

What takes a while to import is imported by functions, when signals have handlers and the address is known to be free.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from trainer.program import program

if TYPE_CHECKING:
    from service.listening import Listeners
    from service.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Runs the server until it is stopped. Returns 0, 1 if it cannot listen, or 2 for invalid settings.

    If the first argument is `generate`, runs `service.cli.generate` instead.
    """
    if arguments[:1] == ["generate"]:
        _stop_at_once_on_signals(program("generate"), {signal.SIGINT: 130, signal.SIGTERM: 1})
        from service.cli import generate

        return generate(arguments[1:])
    _stop_at_once_on_signals(program("serve"), {signal.SIGINT: 0, signal.SIGTERM: 0})
    gc.disable()  # imports make many objects and no garbage: looking for it takes a tenth of their time
    from pydantic import ValidationError
    from pydantic_settings import CliApp

    from service.listening import CannotListen, listen
    from service.removed_options import check_removed
    from service.settings import Settings

    try:
        check_removed(arguments, os.environ)
        settings = CliApp.run(Settings, list(arguments))
        # Until `listeners.close` is called on a signal, one would leave the file of a Unix socket behind: it waits meanwhile.
        held = {signal.SIGINT, signal.SIGTERM} if settings.uds else set[signal.Signals]()
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        listeners = listen(settings.listens_on, settings.port, settings.uds)
    except ValidationError as error:
        return _fail("; ".join(_said(fault["loc"], fault["msg"]) for fault in error.errors()), code=2)
    except ValueError as error:
        return _fail(str(error), code=2)
    except CannotListen as error:
        return _fail(str(error), code=1)
    _stop_at_once_on_signals(program("serve"), {signal.SIGINT: 0, signal.SIGTERM: 0}, listeners.close)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
    try:
        return _serve(settings, listeners)
    finally:
        listeners.close()


def _serve(settings: "Settings", listeners: "Listeners") -> int:
    from service import logs, malloc
    from service.app import create_app
    from service.server import Server, allow_many_connections
    from service.tracing import TracingMissing

    logs.configure(settings.log_format)
    allow_many_connections()
    malloc.map_large_blocks()
    try:
        app = create_app(settings)
        gc.freeze()
        gc.enable()
        Server(app, settings, listeners).run()
    except TracingMissing as error:
        return _fail(str(error), code=2)
    except SystemExit:  # uvicorn's, if the application does not start; it has logged why
        return 1
    if app.state.stuck:
        logging.getLogger(__name__).warning("exiting although a thread has not finished")
    return 0


def _stop_at_once_on_signals(program: str, codes: dict[signal.Signals, int], clean_up: Callable[[], object] = lambda: None) -> None:
    """The process ends in the handler. An exception would have to find its way through imports and threads, and an interpreter
    that ends while a thread is inside a library is aborted."""

    def stop(number: int, _: FrameType | None) -> None:
        with suppress(OSError):
            behind = "\n" if os.isatty(2) else ""  # what Ctrl-C shows there
            os.write(2, f"{behind}{program}: stopped by {signal.Signals(number).name}\n".encode())
        clean_up()
        os._exit(codes[signal.Signals(number)])

    for number in codes:
        signal.signal(number, stop)


def _said(place: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"--{str(place[0]).replace('_', '-')}: {message}" if place else message


def _fail(message: str, *, code: int) -> int:
    print(f"{program('serve')}: error: {message}", file=sys.stderr)
    return code


def leave(code: int) -> NoReturn:
    """Ends the process; if a thread is left, without the interpreter's clean-up, which would abort if it is inside a library."""
    if threading.active_count() == 1:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
