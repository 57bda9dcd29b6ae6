"""Work for a caller who may leave before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

Done = TypeVar("Done")


async def while_connected(http: HttpRequest, work: Coroutine[Any, Any, Done]) -> Done:
    """What `work` returns or raises. It is cancelled when the caller leaves, whose images then leave the queue.

    Raises:
        ClientDisconnect: the caller has left.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_left(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _left(http: HttpRequest) -> None:
    """Returns when the caller has left. The body has been read, so nothing else comes."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
