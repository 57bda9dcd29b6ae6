"""The body of AUTOMATIC1111's POST /sdapi/v1/txt2img: which fields are honoured, which change nothing, which are refused."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from engines.errors import InputError
from engines.manifest import Manifest
from engines.printable import shortened, shown
from engines.values import integer
from runtime.request import Request
from runtime.samplers.names import spelling
from runtime.samplers.options import ETA
from runtime.samplers.registry import SAMPLERS, recurrence, sampler_key
from runtime.samplers.schedules import SchedulerConfig
from runtime.serving.service import Service

# Fields that would change the picture, and the values that ask for nothing; null asks for nothing anywhere.
REFUSED: dict[str, tuple[object, ...]] = {
    "alwayson_scripts": ({},),
    "enable_hr": (False,),
    "firstphase_height": (0,),
    "firstphase_width": (0,),
    "image_cfg_scale": (),
    "infotext": ("",),
    "refiner_checkpoint": ("", "None"),
    "refiner_switch_at": (0,),
    "restore_faces": (False,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "s_noise": (1,),
    "script_name": ("", "None"),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "styles": ([],),
    "subseed_strength": (0,),
    "tiling": (False,),
}
# Fields that say more of those above, or what to do with files. They change no picture; the answer lists those that were given.
WITHOUT_EFFECT = (
    "comments",
    "denoising_strength",
    "disable_extra_networks",
    "do_not_save_grid",
    "do_not_save_samples",
    "force_task_id",
    "hr_additional_modules",
    "hr_cfg",
    "hr_checkpoint_name",
    "hr_distilled_cfg",
    "hr_negative_prompt",
    "hr_prompt",
    "hr_resize_x",
    "hr_resize_y",
    "hr_sampler_name",
    "hr_scale",
    "hr_scheduler",
    "hr_second_pass_steps",
    "hr_upscaler",
    "override_settings_restore_afterwards",
    "s_tmax",
    "s_tmin",
    "save_images",
    "script_args",
    "subseed",
)
EXTRA_NETWORK = re.compile(r"<(lora|lyco|hypernet):", re.IGNORECASE)
WEIGHTS = re.compile(r"(?<!\\)[(\[]|\bBREAK\b|\bAND\b")
PROBE_STEPS = 10  # whether a sampler adds noise does not depend on their number


class Txt2ImgRequest(BaseModel):
    """The fields that are honoured. Null is the same as leaving a field out."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = Field(None, description="of the first picture, the next ones have the next seeds; -1 for random ones")
    sampler_name: str | None = Field(None, description="a sampler by any of its names; null for the model's own")
    sampler_index: str | None = Field(None, description="read where sampler_name is not given")
    scheduler: str | None = Field(None, description="a schedule type")
    steps: int | None = Field(None, description="50 if not given")
    cfg_scale: float | None = Field(None, description="7 if not given")
    width: int | None = None
    height: int | None = None
    batch_size: int | None = None
    n_iter: int | None = Field(None, description="batch_size * n_iter pictures are drawn")
    eta: float | None = Field(None, description="of DDIM and TCD")
    override_settings: dict[str, Any] | None = Field(None, description="CLIP_stop_at_last_layers, sd_model_checkpoint")
    send_images: bool | None = None

    def to_request(self, service: Service) -> Request:
        """What a service is asked for.

        Raises:
            InputError: a field is unknown, or asks for what cannot be honoured.
        """
        self._refuse()
        counts = {name: 1 if (value := getattr(self, name)) is None else value for name in ("batch_size", "n_iter")}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"{name}: expected 1 or more, found {shown(count)}")
        return Request(
            self.prompt or "",
            negative_prompt=self.negative_prompt or "",
            num_images_per_prompt=counts["batch_size"] * counts["n_iter"],
            num_inference_steps=50 if self.steps is None else self.steps,
            guidance_scale=7.0 if self.cfg_scale is None else self.cfg_scale,
            seed=None if self.seed == -1 else self.seed,
            height=self.height,
            width=self.width,
            scheduler=self._sampler,
            schedule_type=self._schedule_type,
            eta=self._eta(service.manifest),
            clip_skip=self._clip_skip(service.model),
        )

    def ignored(self, manifest: Manifest) -> list[str]:
        """What was given and changes nothing."""
        extra = self.model_extra or {}
        names = [name for name in WITHOUT_EFFECT if extra.get(name) is not None]
        if self.sampler_index not in (None, self._sampler):
            names.append("sampler_index")
        if self.eta is not None and not _takes_eta(self._sampler_of(manifest)):
            names.append("eta")
        if any(WEIGHTS.search(text) for text in (self.prompt or "", self.negative_prompt or "")):
            names.append("weights in a prompt, as (word:1.2) or [word], AND and BREAK: read as plain text")
        return names

    @property
    def _sampler(self) -> str | None:
        return self.sampler_name or self.sampler_index or None

    @property
    def _schedule_type(self) -> str | None:
        """None for what the sampler's name ends in."""
        return None if not self.scheduler or spelling(self.scheduler) == "automatic" else self.scheduler

    def _sampler_of(self, manifest: Manifest) -> str:
        return self._sampler or str(manifest.scheduler["_class_name"])

    def _refuse(self) -> None:
        """Raise InputError for unknown fields, and for those that would change the picture and are not available."""
        extra = self.model_extra or {}
        if unknown := [shown(name) for name in extra if name not in REFUSED and name not in WITHOUT_EFFECT]:
            raise InputError(f"unknown fields: expected those that docs/api.md lists, found {shortened(unknown)}")
        for name, nothing in REFUSED.items():
            if (value := extra.get(name)) is not None and value not in nothing:
                raise InputError(f"{name}: expected none, for this server has nothing of the kind, found a value")
        if EXTRA_NETWORK.search(self.prompt or "") or EXTRA_NETWORK.search(self.negative_prompt or ""):
            raise InputError("extra networks: expected none in a prompt, found one; the build decides what a model is made of")

    def _clip_skip(self, model: str) -> int:
        """Of override_settings, the only one that is honoured; a model may be named if it is the server's."""
        settings = {name: value for name, value in (self.override_settings or {}).items() if value is not None}
        layers = settings.pop("CLIP_stop_at_last_layers", 1)
        if settings.pop("sd_model_checkpoint", model) != model:
            raise InputError(f"override_settings.sd_model_checkpoint: expected {shown(model)}, found another")
        if settings:
            names = shortened([shown(name) for name in settings])
            raise InputError(f"override_settings: expected CLIP_stop_at_last_layers or sd_model_checkpoint, found {names}")
        return integer("override_settings.CLIP_stop_at_last_layers", layers) - 1

    def _eta(self, manifest: Manifest) -> float:
        """That of DDIM and TCD. Others add all of their fresh noise, which is 1 here as there, or none."""
        sampler = self._sampler_of(manifest)
        if self.eta is None or _takes_eta(sampler):
            return self.eta or 0.0
        config = SchedulerConfig.read(manifest.scheduler)
        if self.eta != 1 and recurrence(sampler, PROBE_STEPS, config, schedule_type=self._schedule_type).noisy.any():
            raise InputError(f"eta: expected 1 with {shown(sampler)}, found {shown(self.eta)}; DDIM and TCD take others")
        return 0.0


def _takes_eta(sampler: str) -> bool:
    return ETA in SAMPLERS[sampler_key(sampler)].options
