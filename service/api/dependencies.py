"""What path operations ask for: the registry.

A coroutine, though it waits for nothing: FastAPI sends plain functions to a thread, which costs a request more than they do.
"""

from typing import Annotated

from fastapi import Depends, Request

from service.registry import Registry


async def _registry(request: Request) -> Registry:
    return request.app.state.registry  # type: ignore[no-any-return]


CurrentRegistry = Annotated[Registry, Depends(_registry)]
