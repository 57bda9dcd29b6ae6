"""What a server draws before it is ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engines.manifest import Manifest
from runtime.report import ImageReport, Result
from runtime.request import Request
from runtime.samplers.registry import sampler_key
from runtime.serving.bounds import bounded
from runtime.serving.limits import Limits
from runtime.serving.single_images import together

STEPS = 2  # enough to run every network
NEIGHBOURS = ("a house beside a tree", "a bowl of fruit", "two people walking", "the sea at night")


def warm_up(limits: Limits, manifest: Manifest) -> list[Request]:
    """A request of one image for every size that may be asked for.

    The guard only watches, so that there are pictures to compare, whatever it thinks of so few steps.
    """
    own = sampler_key(manifest.scheduler["_class_name"])
    sampler = own if own in limits.samplers else limits.samplers[0]
    steps = min(max(limits.least_steps, STEPS), limits.most_steps)
    scale = min(7.5, limits.most_guidance_scale)
    request = Request(NEIGHBOURS[0], seed=0, num_inference_steps=steps, scheduler=sampler, guidance_scale=scale)
    sizes = limits.picture_sizes(manifest.geometry)
    images = [bounded(replace(request, height=height, width=width), limits, manifest)[0] for height, width in sizes]
    return [replace(image, on_unsafe="monitor") for image in images]


def independent(run: Callable[[Request], Result], request: Request, batch_size: int) -> bool:
    """Whether an image has the same bits in every place of a batch and beside any neighbours that are tried here."""
    alone = _first(run, [request] * batch_size, 0)
    others = [replace(request, prompt=NEIGHBOURS[place % len(NEIGHBOURS)], seed=place + 1) for place in range(batch_size)]
    return all(_first(run, [*others[:place], request, *others[place + 1 :]], place) == alone for place in range(batch_size))


def _first(run: Callable[[Request], Result], batch: Sequence[Request], place: int) -> ImageReport:
    """The report of one image of a batch: it has the digest of the picture and every probability."""
    return run(together(batch)).reports[place]
