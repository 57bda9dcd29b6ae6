"""The operator's limits applied to a request: what is weaker is refused, what was not said becomes as strict as the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engines.errors import InputError
from engines.manifest import Manifest
from engines.policy import Off, Policy
from engines.printable import shown
from runtime.request import Request
from runtime.request_values import Policies
from runtime.samplers.registry import sampler_key
from runtime.serving.errors import ForbiddenError
from runtime.serving.limits import STRICTNESS, Limits
from runtime.serving.policy_bounds import PolicyBounds
from runtime.serving.single_images import single_images


def check_limits(limits: Limits, manifest: Manifest) -> None:
    """Raise InputError for limits that these engines cannot keep: unknown concepts, sizes that the model cannot take."""
    concepts = [guard.concept for guard in manifest.guards]
    if unknown := [name for name in limits.policy if name not in concepts]:
        raise InputError(f"policy: expected concepts of {', '.join(concepts)}, found {shown(unknown[0])}")
    limits.picture_sizes(manifest.geometry)


def bounded(request: Request, limits: Limits, manifest: Manifest) -> list[Request]:
    """The images of a request as the server draws them.

    Raises:
        InputError: a size that the model cannot take, or a sampler or concept that it does not know.
        ForbiddenError: something outside the limits.
    """
    if request.forced_verdict is not None:
        raise ForbiddenError("forced_verdict: expected none, for a server's guard decides by itself")
    if request.unguarded and not limits.unguarded:
        raise ForbiddenError("unguarded: expected false; this server was not started with unguarded pictures allowed")
    if (images := len(request.prompts)) > limits.most_images:
        raise ForbiddenError(f"images: expected at most {limits.most_images} images in a request, found {images}; ask for fewer")
    size, sizes = request.size(manifest.geometry), limits.picture_sizes(manifest.geometry)
    if size not in sizes:
        allowed = ", ".join(f"{width}x{height}" for height, width in sizes)
        raise ForbiddenError(f"size: expected one of {allowed} (width x height), found {size[1]}x{size[0]}")
    return [_bounded(image, limits, manifest) for image in single_images(request)]


def _bounded(image: Request, limits: Limits, manifest: Manifest) -> Request:
    """One image of a request."""
    _check_sampling(image, limits, manifest)
    strict: dict[str, Any] = {
        name: _as_strict(name, image.of_images(name)[0], getattr(limits, name), manifest.check) for name in STRICTNESS
    }
    return replace(image, **strict, policy=_policy(image.policies[0], limits, manifest))


def _check_sampling(image: Request, limits: Limits, manifest: Manifest) -> None:
    """Raise ForbiddenError for a sampler, a step count or a guidance scale outside the limits."""
    sampler = sampler_key(image.schedulers[0] or manifest.scheduler["_class_name"])
    if sampler not in limits.samplers:
        raise ForbiddenError(f"scheduler: expected one of {', '.join(limits.samplers)}, found {sampler}")
    if not limits.least_steps <= (steps := image.step_counts[0]) <= limits.most_steps:
        raise ForbiddenError(f"num_inference_steps: expected {limits.least_steps} to {limits.most_steps}, found {steps}")
    if (scale := image.guidance_scales[0]) > limits.most_guidance_scale:
        raise ForbiddenError(f"guidance_scale: expected at most {limits.most_guidance_scale}, found {scale}")


def _as_strict(name: str, asked: str | None, bound: str | None, built_check: str) -> str | None:
    """What was asked for, if the bound allows it; of what was left at its default, the stricter of the two.

    None stands for the engines' own check.
    """
    strictness = STRICTNESS[name].index
    weakest = strictness(bound or built_check)
    if strictness(asked or built_check) >= weakest:
        return asked
    if asked == getattr(Request, name):
        return bound
    raise ForbiddenError(f"{name}: expected {' or '.join(STRICTNESS[name][weakest:])}, found {asked}")


def _policy(asked: Policies, limits: Limits, manifest: Manifest) -> Policies:
    """The policy of each concept; None where nothing was asked and every one is as it was built."""
    policies: dict[str, Policy | Off] = {}
    given = asked if isinstance(asked, Mapping) else {guard.concept: asked for guard in manifest.guards if asked is not None}
    for guard in manifest.guards:
        bounds = limits.policy.get(guard.concept, PolicyBounds())
        if (policy := given.get(guard.concept)) is not None:
            bounds.check(guard.concept, policy, guard.policy)
        policies[guard.concept] = policy or bounds.default(guard.policy)
    if not given and all(policies[guard.concept] == guard.policy for guard in manifest.guards):
        return None
    return {**given, **policies}  # unknown concepts, too, so that they are an error
