"""What a server answers in place of a picture: errors with an HTTP status and a code, and texts that repeat no prompt."""

from __future__ import annotations

import math

from engines.errors import EngineError, InputError, NonFiniteError, SafeRedirError

PROMPTS = ("prompt", "negative_prompt")  # fields whose values no answer and no log line repeats


class ServingError(SafeRedirError):
    """Base class. `status` is HTTP's; `code` is a word for programs."""

    status: int = 500
    code: str = "internal_error"


class ForbiddenError(ServingError):
    """The operator's limits do not allow it."""

    status = 403
    code = "forbidden_by_server"


class AuthenticationError(ServingError):
    """No key was given, or none that the server knows."""

    status = 401
    code = "invalid_api_key"


class TooLargeError(ServingError):
    """The body of a request is larger than the operator allows."""

    status = 413
    code = "request_too_large"


class RetryError(ServingError):
    """Refused now; `retry_after` is the number of whole seconds after which it may be asked again."""

    status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))


class QueueFullError(RetryError):
    """As many images wait as the operator allows."""

    code = "queue_full"


class RateLimitError(RetryError):
    """This key has asked as often as the operator allows."""

    code = "rate_limited"


class NotReadyError(ServingError):
    """The server starts, drains, or has stopped working until an operator acts."""

    status = 503
    code = "not_ready"


class AuditError(ServingError):
    """The record that the operator requires could not be written; nothing was delivered."""

    status = 503
    code = "audit_failed"


class DeadlineError(ServingError):
    """The request was not done in the time that the operator allows."""

    status = 504
    code = "deadline_exceeded"


def status_and_code(error: Exception) -> tuple[int, str]:
    """The HTTP status and the code of any exception."""
    if isinstance(error, ServingError):
        return error.status, error.code
    if isinstance(error, InputError):
        return 400, "invalid_request"
    if isinstance(error, NonFiniteError):
        return 500, "guard_or_network_failed"
    if isinstance(error, EngineError):
        return NotReadyError.status, NotReadyError.code
    return ServingError.status, ServingError.code


def public_text(error: Exception) -> str:
    """What a client is told: the error's own text, unless that may repeat a prompt or is about the server's inside."""
    if isinstance(error, AuditError):
        return "audit: expected a record of every image, found that it could not be written; the operator's log says why"
    if isinstance(error, ServingError):
        return str(error)
    if isinstance(error, InputError):
        text = str(error)
        return text.partition(", found ")[0] if text.partition(":")[0] in PROMPTS else text
    if isinstance(error, NonFiniteError):
        return "a network or the guard gave NaN, infinity or an impossible answer; the pictures concerned are withheld"
    if isinstance(error, EngineError):
        return "the engines cannot be used; the operator's log says why"
    return "internal error; the operator's log says more"
