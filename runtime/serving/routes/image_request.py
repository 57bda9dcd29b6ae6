"""The body of OpenAI's POST /v1/images/generations, with our fields beside OpenAI's."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engines.errors import InputError
from engines.policy import OFF, Off, Policy
from engines.printable import shown
from runtime.request import Request
from runtime.serving.errors import ForbiddenError
from runtime.serving.policy_bounds import PolicyBounds
from runtime.serving.service import Service

SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
PASSED_ON = (  # to runtime.Request, whose names these are
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "scheduler",
    "schedule_type",
    "eta",
    "clip_skip",
    "check",
    "on_unsafe",
    "on_still_unsafe",
    "unguarded",
)
# OpenAI's fields that change nothing here, and the values that ask for nothing.
WITHOUT_EFFECT = {
    "quality": "auto",
    "style": None,
    "moderation": "auto",
    "user": None,
    "safety_identifier": None,
    "partial_images": 0,
}


class PolicyNumbers(BaseModel):
    """Numbers of the guard for one concept; those that are not given are the server's."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    alpha_scale: float | None = None
    threshold: float | None = None
    final_threshold: float | None = None
    replace_steps: int | None = None
    shift: str | None = None


class ImageRequest(BaseModel):
    """Null is the same as leaving a field out. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: str
    model: str | None = Field(None, description="the server's own, or nothing")
    n: int | None = Field(None, description="images, each with a seed of its own: seed, seed + 1, …")
    size: str | None = Field(None, description='"WIDTHxHEIGHT" in pixels, or "auto" for the engines\' default')
    response_format: Literal["b64_json", "url"] | None = Field(None, description="b64_json; pictures have no URL here")
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of JPEG and WebP; a WebP of 100 is lossless")
    background: Literal["auto", "opaque", "transparent"] | None = Field(None, description="pictures are opaque")
    quality: str | None = Field(None, description="changes nothing, as the next fields: see num_inference_steps")
    style: str | None = None
    moderation: Literal["auto", "low"] | None = Field(None, description="changes nothing: how strict the guard is, the server says")
    user: str | None = None
    safety_identifier: str | None = None
    partial_images: int | None = None
    stream: bool | None = Field(None, description="progress and answer as server-sent events")

    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str | None = Field(None, description="a sampler by any of its names: saferedir samplers lists them")
    schedule_type: str | None = None
    eta: float | None = None
    clip_skip: int | None = None
    check: str | None = Field(None, description="before, auto or beside")
    on_unsafe: str | None = Field(None, description="refuse, redirect or monitor")
    on_still_unsafe: str | None = Field(None, description="withhold or deliver")
    policy: dict[str, Literal["off"] | PolicyNumbers] | None = Field(None, description="by concept")
    unguarded: bool | None = Field(None, description="no guard, where the operator allows it")
    compare: bool | None = Field(None, description="guarded and unguarded of the same seeds, where the operator allows that")

    def to_request(self, service: Service) -> Request:
        """What a service is asked for.

        Raises:
            InputError, ForbiddenError: a field has a value that cannot or may not be honoured.
        """
        self._check(service)
        given = {name: value for name in PASSED_ON if (value := getattr(self, name)) is not None}
        height, width = self._size()
        images = 1 if self.n is None else self.n
        policy = None if self.policy is None else _policies(self.policy, service)
        return Request(self.prompt, num_images_per_prompt=images, height=height, width=width, policy=policy, **given)

    @property
    def form(self) -> str:
        """The format of the pictures' files."""
        return self.output_format or "png"

    @property
    def file_quality(self) -> int:
        return 100 if self.output_compression is None else self.output_compression

    @property
    def ignored(self) -> list[str]:
        """Fields that were given and change nothing."""
        return [name for name, nothing in WITHOUT_EFFECT.items() if getattr(self, name) not in (None, nothing)]

    def _check(self, service: Service) -> None:
        if self.model not in (None, service.model):
            raise InputError(f"model: expected {shown(service.model)}, found {shown(self.model)}; GET /v1/models lists it")
        if self.response_format == "url":
            raise InputError("response_format: expected b64_json, found url; this server keeps no pictures")
        if self.background == "transparent":
            raise InputError("background: expected opaque or auto, found transparent; pictures are opaque")
        if self.form == "png" and self.file_quality != 100:
            raise InputError("output_compression: expected 100 with png, which is lossless, found another; choose jpeg or webp")
        if self.compare and self.unguarded:
            raise InputError("compare: expected without unguarded, found both; compare draws both pictures")
        if self.compare and not service.limits.unguarded:
            raise ForbiddenError("compare: expected false; this server was not started with unguarded pictures allowed")

    def _size(self) -> tuple[int | None, int | None]:
        """Height and width."""
        if self.size in (None, "auto"):
            return None, None
        if (found := SIZE.fullmatch(str(self.size))) is None:
            raise InputError(f'size: expected "WIDTHxHEIGHT" in pixels or "auto", found {shown(self.size)}')
        return int(found[2]), int(found[1])


def _policies(asked: dict[str, Literal["off"] | PolicyNumbers], service: Service) -> dict[str, Policy | Off]:
    """Whole policies: numbers that are not given are the server's own for the concept."""
    built = {guard.concept: guard.policy for guard in service.manifest.guards}
    if unknown := [concept for concept in asked if concept not in built]:
        raise InputError(f"policy: expected concepts of {', '.join(built)}, found {shown(unknown[0])}")
    policies: dict[str, Policy | Off] = {}
    for concept, numbers in asked.items():
        if isinstance(numbers, PolicyNumbers):
            own = service.limits.policy.get(concept, PolicyBounds()).default(built[concept])
            policies[concept] = dataclasses.replace(own, **numbers.model_dump(exclude_none=True))
        else:
            policies[concept] = OFF
    return policies
