"""Errors as HTTP answers, in the form of OpenAI's API."""

from __future__ import annotations

from starlette.responses import JSONResponse

from runtime.serving.errors import AuthenticationError, RetryError, public_text, status_and_code


def error_answer(error: Exception) -> JSONResponse:
    """The answer to any error: no prompt in it, and the headers that its status asks for."""
    status, code = status_and_code(error)
    return error_of(status, code, public_text(error), error_headers(error))


def error_of(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says what was wrong."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)


def error_headers(error: Exception) -> dict[str, str]:
    """Retry-After, or how to authenticate."""
    if isinstance(error, RetryError):
        return {"Retry-After": str(error.retry_after)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, AuthenticationError) else {}
