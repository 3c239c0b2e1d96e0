"""CORS with errors in the format of all others."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from service.api.errors import ApiError


class CORS(CORSMiddleware):
    """Starlette's middleware responds to a refused preflight in plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        message = bytes(response.body).decode()
        if "origin" in message:
            message += "; the server's --cors-origins lists the allowed origins"
        refused = ApiError(response.status_code, "cors_refused", message).response()
        for name, value in response.headers.items():
            if name not in ("content-length", "content-type"):
                refused.headers[name] = value
        return refused
