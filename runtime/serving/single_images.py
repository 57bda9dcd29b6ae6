"""A request taken apart into its images, and images of several requests put together: each image is a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.request import Request
from runtime.request_values import PER_IMAGE


def single_images(request: Request) -> list[Request]:
    """A request for each image; what seeds are not given stay random."""
    values = {name: request.of_images(name) for name in PER_IMAGE}
    if isinstance(request.seed, int):
        values["seed"] = request.seeds()
    images = []
    for image, prompt in enumerate(request.prompts):
        own: dict[str, Any] = {name: of_images[image] for name, of_images in values.items()}
        images.append(replace(request, prompt=prompt, num_images_per_prompt=1, **own))
    return images


def together(images: Sequence[Request]) -> Request:
    """One request for images of one size and kind, each of a request of its own."""
    per_image: dict[str, Any] = {name: [image.of_images(name)[0] for image in images] for name in PER_IMAGE}
    return replace(images[0], prompt=[image.prompts[0] for image in images], **per_image)
