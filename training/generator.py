"""The model that a guard is trained for, as diffusers' pipeline in PyTorch, made from the files that the build would export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from engines.backends.processor import processor
from engines.errors import InputError
from engines.networks import TOKENS
from engines.records import SourceRecord
from evaluation.device import checked_device, has_bfloat16
from export.sources.component_rules import whole
from export.sources.edits import edits_of
from export.sources.load import load_component
from export.sources.locate import find_model
from export.sources.model_folder import COMPONENTS
from export.sources.tokenizer_files import load_tokenizer
from export.wrappers import VaeDecoder
from training.settings import SCHEDULERS, ModelChoice

# Of a row of a run: its timestep [], sample [B, 4, H, W] and embeddings [C·B, 77, D] → the embeddings for its UNet call.
Look = Callable[[Tensor, Tensor, Tensor], Tensor]


class Generator:
    """Prompts to embeddings to latents to pictures, on one device; nothing is trained here. All is float32, but that in `precision`
    "bfloat16" the UNet's calls are PyTorch's automatic mixed precision.

    `components` are the model's networks, `schedule` its scheduler's config; `files` has the SHA-256 of every file that was read,
    by component and name.

    Raises:
        InputError: the model cannot be used, or the device is not there or has no such precision.
    """

    def __init__(
        self, choice: ModelChoice, device: str = "cpu", say: Callable[[str], None] = print, precision: str = "float32"
    ) -> None:
        self.device = checked_device(device)
        if precision == "bfloat16" and not has_bfloat16(self.device):
            raise InputError(
                f"precision: expected a device that multiplies in bfloat16, found {_described(self.device)}; "
                "train with --precision float32"
            )
        source = find_model(choice.model, choice.config, choice.vae)
        self.geometry = source.geometry
        self.components: dict[str, Any] = {}
        for name in COMPONENTS:
            self.components[name] = load_component(source, name, say)
            for edit in edits_of(choice.edits, name):
                edit.apply(self.components[name], name, say)
            self.components[name].to(self.device).requires_grad_(False)
        if precision == "bfloat16":
            _in_bfloat16(self.components["unet"], self.device)
        vocabulary = whole(source.config("text_encoder"), "vocab_size", source.path("text_encoder"))
        self.tokenizer = load_tokenizer(source.files("tokenizer"), vocabulary, source.pad_token)
        read = {f"{name}/{file.name}": file for name in (*COMPONENTS, "tokenizer") for file in source.files(name)}
        read |= {f"{edit.kind}/{place}/{edit.path.name}": edit.path for place, edit in enumerate(choice.edits, 1)}
        self.files = {name: SourceRecord.of(file).sha256 for name, file in read.items()}
        self.schedule = source.scheduler
        self._decoder = VaeDecoder(self.components["vae"])
        self._pipeline = diffusers.StableDiffusionPipeline(
            **self.components,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler("ddim"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self._pipeline.set_progress_bar_config(disable=True)

    @property
    def distilled(self) -> bool:
        """Whether the UNet was distilled with its guidance: it takes the scale as an input, and one row of text."""
        return self.geometry.time_cond_proj_dim > 0

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of latents at the model's own size."""
        scale = self.geometry.scale_factor
        return self.geometry.default_height // scale, self.geometry.default_width // scale

    def scheduler(self, name: str) -> Any:
        """A new scheduler of a name of SCHEDULERS, with the model's noise schedule."""
        return getattr(diffusers, SCHEDULERS[name]).from_config(dict(self.schedule))

    def token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt, all of them, without start, end and padding."""
        texts = self._pipeline.maybe_convert_prompt([*prompts], self.tokenizer)
        ids: list[list[int]] = self.tokenizer(texts, truncation=False, verbose=False).input_ids
        return [each[1:-1] for each in ids]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings float32 [len(prompts), 77, D]."""
        texts = self._pipeline.maybe_convert_prompt([*prompts], self.tokenizer)
        ids = self.tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
        embeds: Tensor = self._pipeline.text_encoder(ids.to(self.device)).last_hidden_state
        return embeds

    @torch.no_grad()
    def sample(
        self, scheduler: Any, steps: int, guidance: float, prompts: tuple[Tensor, Tensor], noise: Tensor, look: Look
    ) -> Tensor:
        """Final latents [B, 4, H, W] of a run of diffusers' pipeline.

        `prompts` are the embeddings [B, 77, D] of the negative and of the real prompts. `look` is called before each UNet call.
        The sample that it sees is the scheduler's own, before the scaling of model inputs, as the runtime's guard does.
        """
        negative, embeds = prompts
        scheduler.set_timesteps(steps, device=self.device)
        timesteps = [*scheduler.timesteps]
        two_rows = guidance > 1 and not self.distilled
        first = look(timesteps[0], noise * scheduler.init_noise_sigma, torch.cat([negative, embeds]) if two_rows else embeds)

        def after(_: Any, row: int, __: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if row + 1 == len(timesteps):
                return {}
            return {"prompt_embeds": look(timesteps[row + 1], tensors["latents"], tensors["prompt_embeds"])}

        self._pipeline.scheduler = scheduler
        latents: Tensor = self._pipeline(
            prompt_embeds=first[-len(embeds) :],
            negative_prompt_embeds=first[: len(embeds)],
            height=self.geometry.default_height,
            width=self.geometry.default_width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise,
            output_type="latent",
            callback_on_step_end=after,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        ).images
        return latents

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> np.ndarray:
        """Pictures uint8 [B, height, width, 3] of final latents, decoded one by one."""
        pictures: np.ndarray = torch.cat([self._decoder(latent.unsqueeze(0))[0] for latent in latents]).cpu().numpy()
        return pictures


def _described(device: torch.device) -> str:
    return processor() if device.type == "cpu" else torch.cuda.get_device_name(device)


def _in_bfloat16(unet: UNet2DConditionModel, device: torch.device) -> None:
    """Let a UNet's calls be mixed precision. Its output stays float32, for some samplers would keep their sample in its dtype."""
    unet.forward = torch.autocast(device.type, torch.bfloat16)(unet.forward)
    unet.conv_out.register_forward_hook(lambda layer, given, output: output.float())
