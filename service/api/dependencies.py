"""What path operations ask for: the application's settings and registry.

Coroutines, though they wait for nothing: FastAPI sends plain functions to a thread, which costs a request more than they do.
"""

from typing import Annotated

from fastapi import Depends, Request

from service.registry import Registry
from service.settings import Settings


async def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


async def _registry(request: Request) -> Registry:
    return request.app.state.registry  # type: ignore[no-any-return]


CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentRegistry = Annotated[Registry, Depends(_registry)]
