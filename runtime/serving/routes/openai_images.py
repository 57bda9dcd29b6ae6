"""OpenAI's images API: POST /v1/images/generations, as one answer or as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter
from PIL import Image
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from engines.errors import SafeRedirError
from runtime.picture_files import encode
from runtime.report import ImageReport, Result
from runtime.request import Request
from runtime.serving.answers import error_headers
from runtime.serving.routes.error_forms import WITHHELD, errors_as, told
from runtime.serving.routes.image_request import ImageRequest
from runtime.serving.service import Service

Shot = tuple[Image.Image | None, ImageReport]
Progress = Callable[[int, int], None]
Event = tuple[str, dict[str, Any]]  # name and data


def router(service: Service) -> APIRouter:
    """POST /v1/images/generations."""
    routes = APIRouter(tags=["pictures"], route_class=errors_as(_refused))

    @routes.post("/v1/images/generations", response_model=None)
    async def generations(asked: ImageRequest, http: HttpRequest) -> Response:
        """Guarded pictures in base64, each with its report."""
        drawing = Drawing(service, asked, http.state.key)
        if asked.stream:
            return await _streamed(drawing)
        status, body = await drawing.answer()
        return JSONResponse(body, status)

    return routes


@dataclass(frozen=True)
class Drawing:
    """One request on its way, from its arrival at `since`; `key` is the name of the caller's API key."""

    service: Service
    asked: ImageRequest
    key: str
    since: float = field(default_factory=time.monotonic)

    async def answer(self, progress: Progress | None = None) -> tuple[int, dict[str, Any]]:
        """Status and body; see docs/api.md. Raises what `Service.generate` does."""
        shots = await self._shots(progress)
        return await asyncio.to_thread(self._body, shots)

    async def _shots(self, progress: Progress | None) -> list[Shot]:
        """The pictures in their order. To compare, the unguarded ones come after them; of what was withheld none is drawn."""
        request = self.asked.to_request(self.service)
        if not self.asked.compare:
            result = await self._drawn(request, progress)
            return list(zip(result.images, result.reports, strict=True))
        first, second = _halves(progress)
        guarded = await self._drawn(request, first)
        shots: list[Shot] = list(zip(guarded.images, guarded.reports, strict=True))
        if seeds := [report.seed for image, report in shots if image is not None]:
            same = replace(request, num_images_per_prompt=len(seeds), seed=seeds, policy=None, unguarded=True)
            unguarded = await self._drawn(same, second)
            shots += zip(unguarded.images, unguarded.reports, strict=True)
        return shots

    async def _drawn(self, request: Request, progress: Progress | None) -> Result:
        return await self.service.generate(request, key=self.key, progress=progress, since=self.since)

    def _body(self, shots: list[Shot]) -> tuple[int, dict[str, Any]]:
        reports = [json.loads(report.to_json()) for _, report in shots]
        ours = {
            "manifest_digest": shots[0][1].manifest_digest,
            "guarded": all(report.verdict != "unguarded" for _, report in shots),
            "ignored": self.asked.ignored,
        }
        if all(image is None for image, _ in shots):
            error = {"message": WITHHELD, "type": "image_generation_user_error", "param": None, "code": "moderation_blocked"}
            return 400, {"error": error, "saferedir": {**ours, "reports": reports}}
        data = [{"b64_json": self._base64(*shot), "report": report} for shot, report in zip(shots, reports, strict=True)]
        return 200, {
            "created": int(time.time()),
            "data": data,
            "background": "opaque",
            "output_format": self.asked.form,
            "size": f"{shots[0][1].width}x{shots[0][1].height}",
            "saferedir": ours,
        }

    def _base64(self, image: Image.Image | None, report: ImageReport) -> str | None:
        """The file of a picture; None where it was withheld."""
        return None if image is None else base64.b64encode(encode(image, report, self.asked.form, self.asked.file_quality)).decode()


async def _streamed(drawing: Drawing) -> Response:
    """Server-sent events. What fails before the first step has its own status, as without a stream."""
    events = _events(drawing)
    name, data = first = await anext(events)
    if name == "error":
        return JSONResponse(data, 400)
    return StreamingResponse(_written(first, events), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(drawing: Drawing) -> AsyncGenerator[Event, None]:
    """Every step, then the answer or the error of withheld pictures. Raises as `Drawing.answer` does. Closed, it ends that."""
    steps: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
    task = asyncio.create_task(drawing.answer(lambda done, all_steps: steps.put_nowait((done, all_steps))))
    task.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield "image_generation.progress", {"done": step[0], "steps": step[1]}
        status, body = task.result()
        yield ("image_generation.completed", _completed(body)) if status == 200 else ("error", body)
    finally:
        task.cancel()


async def _written(first: Event, events: AsyncGenerator[Event, None]) -> AsyncIterator[str]:
    """Events as text; the last one is an error where something failed, for the status has been sent."""
    async with aclosing(events):
        yield _text(*first)
        try:
            async for event in events:
                yield _text(*event)
        except Exception as error:
            yield _text("error", _error(error))
            if not isinstance(error, SafeRedirError):
                raise


def _completed(body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer, and beside it the first picture where OpenAI's event has it."""
    shown = next(entry["b64_json"] for entry in body["data"] if entry["b64_json"] is not None)
    return {**body, "created_at": body["created"], "b64_json": shown}


def _text(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, allow_nan=False)}\n\n"


def _halves(progress: Progress | None) -> tuple[Progress | None, Progress | None]:
    """What is told of the first and of the second of two runs with as many steps."""
    if progress is None:
        return None, None
    return (lambda done, steps: progress(done, 2 * steps)), (lambda done, steps: progress(steps + done, 2 * steps))


def _refused(error: Exception) -> Response:
    return JSONResponse(_error(error), told(error)[0], error_headers(error))


def _error(error: Exception) -> dict[str, Any]:
    """OpenAI's form. `param` is the field that the text begins with."""
    status, code, text = told(error)
    field = text.split(":", 1)[0]
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": text, "type": kind, "param": field if field in ImageRequest.model_fields else None, "code": code}}
