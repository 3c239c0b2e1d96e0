"""The dependencies of path operations.

They are coroutines although they wait for nothing: FastAPI runs plain functions in a thread, which takes longer than they do.
"""

from typing import Annotated

from fastapi import Depends, Request

from service.registry import Registry


async def _registry(request: Request) -> Registry:
    return request.app.state.registry  # type: ignore[no-any-return]


CurrentRegistry = Annotated[Registry, Depends(_registry)]
