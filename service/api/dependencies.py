"""The dependencies of path operations.

They are coroutines although they wait for nothing: FastAPI runs plain functions in a thread, which takes longer than they do.
"""

from typing import Annotated

from fastapi import Depends, Request

from service.registry import Model, Registry


async def _registry(request: Request) -> Registry:
    return request.app.state.registry  # type: ignore[no-any-return]


def named_models(request: Request) -> dict[str, Model]:
    """The served models by their names and then by their aliases. Raises NotReady."""
    models = {model.config.name: model for model in request.app.state.registry.models}
    aliases = request.app.state.settings.model_aliases
    return models | {alias: models[name] for alias, name in aliases.items() if name in models and alias not in models}


CurrentRegistry = Annotated[Registry, Depends(_registry)]
