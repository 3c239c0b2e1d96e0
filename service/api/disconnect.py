"""Clients that disconnect: the work for them is cancelled, and nobody is answered."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

T = TypeVar("T")

DISCONNECTED = 499  # nginx's status for a client that has disconnected: only the log and the metrics see it


async def no_answer(_: Request, __: Exception) -> Response:
    """The exception handler of ClientDisconnect."""
    return Response(status_code=DISCONNECTED)


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel_on_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`. Raises its error, or ClientDisconnect as soon as the client disconnects."""
    working, leaving = asyncio.ensure_future(work), asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        leaving.cancel()
