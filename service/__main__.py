"""python -m service: serves the models folder over HTTP; python -m service generate: continues a text on the terminal."""

import asyncio
import logging
import os
import signal
import socket
import sys
from math import ceil

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.app import create_app
from service.settings import Settings

SENDING = 5  # seconds that ended streams have to send their last event


class Server(uvicorn.Server):
    """Uvicorn, which waits for open streams when it is told to stop; those still open after the grace end with an error event."""

    def __init__(self, settings: Settings) -> None:
        self._app, self._grace = create_app(settings), settings.shutdown_grace
        super().__init__(
            uvicorn.Config(
                self._app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                timeout_graceful_shutdown=ceil(settings.shutdown_grace) + SENDING,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._grace, self._app.state.registry.end, "the server is shutting down")
        await super().shutdown(sockets)


def main() -> int:
    """Serves until told to stop, then returns 0; 1 where it can't listen, 2 for settings that can't be."""
    if sys.argv[1:2] == ["generate"]:
        from service.command import generate

        return generate(sys.argv[2:])
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        faults = "; ".join(f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}" for fault in error.errors())
        print(f"python -m service: error: {faults}", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on instruction sets help nobody here
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again once all is down
    try:
        Server(settings).run()
    except KeyboardInterrupt:
        return 0
    except SystemExit as stopped:  # 0 from the signal; uvicorn's own code where it can't listen
        return 1 if stopped.code else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
