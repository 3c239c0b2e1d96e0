"""OpenAI's operations on the same engine, so that its clients work unchanged. A token is a character."""

from fastapi import APIRouter

from service.api.openai import chat, completions, models

router = APIRouter(prefix="/v1", tags=["openai"])
for part in (completions, chat, models):
    router.include_router(part.router)

__all__ = ["router"]
