"""What path operations ask for: the application's settings and registry."""

from typing import Annotated

from fastapi import Depends, Request

from service.registry import Registry
from service.settings import Settings


def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


def _registry(request: Request) -> Registry:
    return request.app.state.registry  # type: ignore[no-any-return]


CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentRegistry = Annotated[Registry, Depends(_registry)]
