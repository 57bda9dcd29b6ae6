"""What every request passes before a route sees it: a count, a limit of its body, callers that leave, and a last answer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.serving.answers import error_answer
from runtime.serving.errors import DeadlineError, TooLargeError
from runtime.serving.log import log, where
from runtime.serving.metrics import Metrics

BODY_SECONDS = 30.0  # in which a request's body must be there


class Counted:
    """Counts answers by their status, those of no route as well."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.http_responses.labels(message["status"]).inc()
            await send(message)

        await self._app(scope, receive, sending)


class CallerLeft(Exception):
    """The connection was closed before the body had come."""


class Intake:
    """Reads a body of at most `most` bytes whole, then lets the application answer, and cancels it when the caller leaves."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            if int(dict(scope["headers"]).get(b"content-length", b"0")) > self._most:
                raise self._too_large()
            body = await asyncio.wait_for(self._read(receive), BODY_SECONDS)
        except CallerLeft:
            return
        except asyncio.TimeoutError:
            error = DeadlineError(f"body: expected all of it within {BODY_SECONDS} s, found less")
            return await error_answer(error)(scope, receive, send)
        except TooLargeError as error:
            return await error_answer(error)(scope, receive, send)
        await self._answer(scope, body, receive, send)

    async def _read(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self._most:
                raise self._too_large()
        return body

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it has answered or the caller is gone."""
        messages: list[Message] = [{"type": "http.request", "body": body}]
        leaving = asyncio.ensure_future(receive())
        answered = False

        async def replay() -> Message:
            return messages.pop() if messages else await asyncio.shield(leaving)

        async def sending(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        answering = asyncio.ensure_future(self._app(scope, replay, sending))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done() and not answered:
                answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"body: expected at most {self._most} bytes, found more")


class LastAnswer:
    """Answers what nobody expected, and logs where it happened, but not its text, which may hold a prompt."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            log("unexpected error", logging.ERROR, kind=type(error).__name__, where=where(error))
            if not begun and scope["type"] == "http":
                await error_answer(error)(scope, receive, send)
