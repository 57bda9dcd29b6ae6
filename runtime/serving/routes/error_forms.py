"""Errors of a router's paths in the form of the API that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from engines.errors import SafeRedirError
from engines.printable import LONGEST, printable, shortened
from runtime.serving.errors import public_text, status_and_code

WITHHELD = "the guard withheld every picture; saferedir.reports says what it saw"


def errors_as(answer: Callable[[Exception], Response]) -> type[APIRoute]:
    """The class of a router's paths, whose errors `answer` turns into answers."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: HttpRequest) -> Response:
                try:
                    return await handler(request)
                except (SafeRedirError, RequestValidationError, HTTPException) as error:
                    return answer(error)

            return handle

    return Route


def told(error: Exception) -> tuple[int, str, str]:
    """Status, code and text of an error. Nothing of the text is a value that was sent in a prompt's place."""
    if isinstance(error, RequestValidationError):
        return 400, "invalid_request", shortened([_in_words(fault) for fault in error.errors()])
    if isinstance(error, HTTPException):
        return error.status_code, "invalid_request", str(error.detail)
    return *status_and_code(error), public_text(error)


def _in_words(fault: dict[str, Any]) -> str:
    """Which field is at fault, and how."""
    if (fault["loc"], fault["type"]) == (("body",), "model_attributes_type"):
        return "body: expected a JSON object, with the header Content-Type: application/json"
    field = printable(".".join(map(str, fault["loc"][1:])))[:LONGEST] or "body"
    return f"{field}: unknown field" if fault["type"] == "extra_forbidden" else f"{field}: {fault['msg']}"
