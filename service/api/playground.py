"""The playground at /, and its files under /web."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.api.errors import ApiError

router = APIRouter(include_in_schema=False)

WEB = Path(__file__).parent.parent / "web"
PARTS = frozenset(path.name for path in WEB.iterdir())
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # the page of a new release must not run with an old script
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/")
async def page() -> FileResponse:
    return FileResponse(WEB / "index.html", headers=HEADERS)


@router.get("/web/{name}")
async def part(name: str) -> FileResponse:
    if name not in PARTS:
        raise ApiError(404, "not_found", f"the playground has no file {name}")
    return FileResponse(WEB / name, headers=HEADERS)
