"""What every request passes before a route sees it: a limit of its body, and a last answer to what nobody expected."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.serving.answers import error_answer
from runtime.serving.errors import DeadlineError, TooLargeError
from runtime.serving.log import log, where

BODY_SECONDS = 30.0  # for each piece of a request's body


class BodyLimit:
    """Refuses bodies of more than `most` bytes, announced or not, and callers that stop sending."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if int(announced) > self._most:
            return await error_answer(self._too_large())(scope, receive, send)
        read, ended = 0, False

        async def limited() -> Message:
            nonlocal read, ended
            if ended:  # what comes now is the caller's leaving
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except asyncio.TimeoutError:
                raise DeadlineError(f"body: expected its next piece within {BODY_SECONDS} s, found none") from None
            read += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if read > self._most:
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

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
            log("unexpected", error=type(error).__name__, where=where(error))
            if not begun and scope["type"] == "http":
                await error_answer(error)(scope, receive, send)
