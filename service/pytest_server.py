"""The server of the fixture `folio`: python -m service.pytest_server [OPTIONS of the service].

It prints its address once it is ready. It ends when its standard input is closed, so it never outlives the tests, however they end.
"""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from folio_pytest import STARTED
from service import logs
from service.app import create_app
from service.included import included_models
from service.listening import listen
from service.registry import NotReady
from service.server import Server
from service.settings import Settings


class AnnouncedServer(Server):
    """Loads the models, and prints its address, before it counts as started."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        registry = self._app.state.registry
        await asyncio.to_thread(registry.wait_until_loaded)
        try:
            registry.check_ready()
            print(STARTED + self._listeners.names[0], flush=True)
        except NotReady as error:
            print(error, file=sys.stderr)
            self.should_exit = True


def main(arguments: Sequence[str]) -> int:
    included = included_models()
    own = ["--models-dir", str(included)] if included else []
    try:
        # Of an option that is given twice, the last value counts.
        settings = CliApp.run(Settings, [*own, "--shutdown-delay", "0", "--log-format", "plain", *arguments, "--port", "0"])
    except (ValidationError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_format)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    AnnouncedServer(create_app(settings), settings, listen("127.0.0.1", 0)).run()
    return 0


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
