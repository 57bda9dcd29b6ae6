"""AUTOMATIC1111's API: /sdapi/v1/txt2img, samplers, schedulers, sd-models, options, progress, png-info."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from engines.errors import InputError
from runtime.picture_files import encode, read_report
from runtime.report import Result
from runtime.serving.answers import error_headers
from runtime.serving.errors import ForbiddenError
from runtime.serving.routes import catalogue
from runtime.serving.routes.error_forms import WITHHELD, errors_as, told
from runtime.serving.routes.infotext import infotext, parameters
from runtime.serving.routes.progress import Works
from runtime.serving.routes.txt2img_request import Txt2ImgRequest
from runtime.serving.service import Service

MOST_PIXELS = 4096 * 4096  # of a picture whose report is read
UNPROCESSABLE = 422  # AUTOMATIC1111's status for what is understood and not done; its clients raise an error for it


class PngInfoRequest(BaseModel):
    """A picture, PNG, JPEG or WebP, in base64, with or without a data URL's beginning."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str


def router(service: Service) -> APIRouter:
    """The paths under /sdapi/v1."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], route_class=errors_as(_refused))
    works = Works()

    @routes.post("/txt2img", response_model=None)
    async def txt2img(asked: Txt2ImgRequest, http: HttpRequest) -> Response:
        """Guarded pictures, PNG in base64; `info` has their reports."""
        request = asked.to_request(service)
        with works.work(http.state.key) as work:
            result = await service.generate(request, key=http.state.key, progress=work.step)
        return await asyncio.to_thread(_pictures, asked, result, service)

    @routes.get("/progress")
    async def progress(http: HttpRequest) -> dict[str, Any]:
        """How far the caller's pictures are."""
        return works.progress(http.state.key)

    @routes.post("/png-info", response_model=None)
    async def png_info(asked: PngInfoRequest) -> dict[str, Any]:
        """The report inside a picture, and whether it is this picture's."""
        return await asyncio.to_thread(_png_info, asked.image)

    @routes.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        """The samplers that may be asked for."""
        return catalogue.samplers(service.limits)

    @routes.get("/schedulers")
    async def schedulers() -> list[dict[str, Any]]:
        """The schedule types."""
        return catalogue.schedulers()

    @routes.get("/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        """The model that the engines were built from."""
        return catalogue.models(service.model)

    @routes.get("/options")
    async def options() -> dict[str, Any]:
        """Options as they are."""
        return catalogue.options(service.model)

    @routes.post("/options")
    async def set_options() -> None:
        """Refused: a caller changes nothing for others."""
        raise ForbiddenError("options: expected to be read only, found a change; give override_settings with a request")

    return routes


def _pictures(asked: Txt2ImgRequest, result: Result, service: Service) -> Response:
    """The answer: pictures that were not withheld, in their order, and every report."""
    reports = [json.loads(report.to_json()) for report in result.reports]
    shown = [place for place, image in enumerate(result.images) if image is not None]
    ours = {
        "manifest_digest": result.reports[0].manifest_digest,
        "guarded": all(report.verdict != "unguarded" for report in result.reports),
        "ignored": asked.ignored(service.manifest),
        "withheld": len(reports) - len(shown),
        "reports": reports,
    }
    if not shown:
        return JSONResponse({**_error("ContentWithheld", WITHHELD), "saferedir": ours}, UNPROCESSABLE)
    files = [encode(image, report) for image, report in zip(result.images, result.reports, strict=True) if image is not None]
    sent = [] if asked.send_images is False else [base64.b64encode(file).decode() for file in files]
    info = {**_info([reports[place] for place in shown], service.model), "saferedir": ours}
    given = {**asked.model_dump(include=set(Txt2ImgRequest.model_fields), exclude_unset=True), "saferedir_ignored": ours["ignored"]}
    return JSONResponse({"images": sent, "parameters": given, "info": json.dumps(info, allow_nan=False)})


def _info(reports: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """What AUTOMATIC1111 says of pictures, as far as it is said of them here; lists have an entry for each picture."""
    first = reports[0]
    return {
        "prompt": first["prompt"],
        "all_prompts": [report["prompt"] for report in reports],
        "negative_prompt": first["negative_prompt"],
        "all_negative_prompts": [report["negative_prompt"] for report in reports],
        "seed": first["seed"],
        "all_seeds": [report["seed"] for report in reports],
        "width": first["width"],
        "height": first["height"],
        "sampler_name": first["sampler"],
        "cfg_scale": first["guidance_scale"],
        "steps": first["num_inference_steps"],
        "batch_size": len(reports),
        "sd_model_name": model,
        "index_of_first_image": 0,
        "infotexts": [infotext(report) for report in reports],
        "clip_skip": first["clip_skip"] + 1,
    }


def _png_info(encoded: str) -> dict[str, Any]:
    """AUTOMATIC1111's answer; and `report`, null where there is none, whether it `matches` the picture, and the `problem` if not.

    Raises:
        InputError: no base64.
    """
    try:
        content = base64.b64decode(encoded.partition(",")[2] if encoded.startswith("data:") else encoded, validate=True)
    except ValueError:
        raise InputError("image: expected a picture in base64, found another text") from None
    try:
        found = read_report(content, "image", MOST_PIXELS)
    except InputError as error:
        return {"info": "", "items": {}, "parameters": {}, "report": None, "matches": False, "problem": str(error)}
    items = {"saferedir": json.dumps(found.report)}
    told_of = {"info": infotext(found.report), "items": items, "parameters": parameters(found.report)}
    return {**told_of, "report": found.report, "matches": found.problem is None, "problem": found.problem}


def _refused(error: Exception) -> Response:
    status, _, text = told(error)
    if isinstance(error, RequestValidationError):
        status = UNPROCESSABLE
    return JSONResponse(_error(type(error).__name__, text), status, error_headers(error))


def _error(name: str, text: str) -> dict[str, Any]:
    """AUTOMATIC1111's form. `body` repeats nothing of the request."""
    return {"error": name, "detail": text, "body": "", "errors": text}
