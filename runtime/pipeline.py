"""GuardedPipeline: engines from a folder, prompts in, images and reports out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from engines.backends.contract import Engine, run_once
from engines.backends.program import Execution, Progress
from engines.backends.registry import open_backend
from engines.errors import InputError, NonFiniteError
from engines.manifest import Policy
from engines.networks import GUARD_NETWORKS, LATENT_CHANNELS, NETWORKS
from engines.store.engine_store import EngineStore
from engines.store.verification import ensure_verified
from runtime.judge import Judged, judge, responsible
from runtime.loop import Loop, Trace
from runtime.noise import randn
from runtime.prompts import PromptTokenizer
from runtime.report import ImageReport, Result, image_digest
from runtime.request import Request
from runtime.samplers.schedules import NoiseSchedule
from runtime.samplers.tables import SamplerTable, sampler_table

LOOPS = 4  # shapes whose buffers are kept


class GuardedPipeline:
    """Guarded generation on the engines of a folder.

    Every file is verified before it is loaded. Threads may share a pipeline: calls run one at a time, in the order in
    which they come, and each sees its own images only. Leaving a `with` block, or `close`, frees the engines.

    Args:
        engine_dir: folder made by `saferedir build`.
        unguarded: accept engines without a guard; then every call is unguarded, and its reports say so.
        eager: on a GPU, launch each network by itself and capture no CUDA graph, to debug.
        wrap: applied to every loaded engine; what it returns is bound in the engine's place (to time or to watch its calls).

    Raises:
        ManifestError: no valid manifest there, or none with a guard.
        DigestError: a file is missing or altered.
        BackendError: the backend is not installed or refuses an engine.
        ParityError: engines that were built without their device do not compute on it what PyTorch computed.
        InputError: the model's scheduler has options that a sampler table cannot honour.
    """

    def __init__(
        self,
        engine_dir: str | Path,
        unguarded: bool = False,
        eager: bool = False,
        *,
        wrap: Callable[[Engine], Engine] = lambda engine: engine,
    ) -> None:
        self._store = EngineStore(engine_dir)
        if not unguarded:
            self._store.require_guard()
        self.manifest = self._store.manifest
        self._unguarded = unguarded
        self._schedule = NoiseSchedule.from_config(self.manifest.scheduler)
        self._tokenizer = PromptTokenizer(self._store.tokenizer)
        self._backend = open_backend(self.manifest.backend, self.manifest.precision, eager)
        wanted = [name for name in NETWORKS if not (unguarded and name in GUARD_NETWORKS)]
        self._engines: dict[str, Engine] = self._store.load(wanted, self._backend)
        ensure_verified(self._store, self._backend, self._engines)
        self._engines = {name: wrap(engine) for name, engine in self._engines.items()}
        self._loops: OrderedDict[tuple[object, ...], Loop] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """What the engines run on, in words."""
        return self._backend.device

    def used_device_memory(self) -> int | None:
        """Bytes of the GPU's memory in use, by every process; None on a CPU."""
        return self._backend.used_memory()

    def __enter__(self) -> GuardedPipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free engines and buffers, once a call in progress has ended. Later calls raise InputError."""
        with self._lock:
            self._loops.clear()
            self._engines.clear()

    def __call__(self, prompt: str | Sequence[str], *, progress: Progress | None = None, **options: Any) -> Result:
        """Generate one image for each prompt; `options` are the fields of `runtime.request.Request`.

        `progress(done, steps)` is called after every step, or once at the end where a CUDA graph runs them all.

        Raises:
            InputError: an option cannot be honoured.
            NonFiniteError: a network returned NaN or infinity; its `result` holds the images not concerned.
        """
        request = Request.of(prompt, options)
        if self._unguarded:
            request = replace(request, unguarded=True)
        with self._lock:
            if not self._engines:
                raise InputError("pipeline: expected an open one, found it closed; make a new GuardedPipeline")
            return self._generate(request, progress)

    def _generate(self, request: Request, progress: Progress | None) -> Result:
        height, width = request.size(self.manifest.geometry)
        seeds, images = request.seeds(), len(request.prompts)
        self._check_profile({"batch_size": images, "height": height, "width": width})
        table = sampler_table(request.scheduler or self._schedule.class_name, request.num_inference_steps, self._schedule)
        factor = self.manifest.geometry.scale_factor
        latent = (LATENT_CHANNELS, height // factor, width // factor)
        noise = np.stack([randn(seed, (1, *latent))[0] for seed in seeds])
        texts = request.negative_prompts + request.prompts if request.branches == 2 else request.prompts
        embeds = self._encode(texts)
        loop = self._loop(
            table, {"B": images, "CB": len(texts), "H": latent[1], "W": latent[2], "D": embeds.shape[2]}, request.unguarded
        )
        trace = loop.run(embeds, noise, request.guidance_scale, self._effective_policy(request), progress)
        judged = self._explain(judge(trace, request, self._policy(request)), request.prompts, embeds[-images:])
        reports = [
            self._report(request, table, seed, (height, width), index, found)
            for index, (seed, found) in enumerate(zip(seeds, judged, strict=True))
        ]
        return self._finish(trace, reports, loop.execution)

    def _check_profile(self, sizes: dict[str, int]) -> None:
        """Raise InputError for a size that TensorRT engines were not built for."""
        if (target := self.manifest.target) is None:
            return
        for name, size in sizes.items():
            smallest, _, largest = target.span(name)
            if not smallest <= size <= largest:
                raise InputError(
                    f"{name}: expected {smallest} to {largest}, for which these engines were built, found {size}; "
                    f"rebuild with: saferedir build --{name.replace('_', '-')} MIN:OPT:MAX"
                )

    def _policy(self, request: Request) -> Policy | None:
        """The numbers that judge; None without a guard."""
        if request.unguarded or self.manifest.guard is None:
            return None
        return request.policy or self.manifest.guard.policy

    def _effective_policy(self, request: Request) -> Policy | None:
        """The numbers given to the guard: to refuse or to monitor is to judge every step and to shift by nothing."""
        policy = self._policy(request)
        if policy is None or request.on_unsafe == "redirect":
            return policy
        return replace(policy, alpha_scale=0.0, replace_steps=0)

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings float32 [len(texts), 77, D]."""
        ids = self._tokenizer(texts)
        sizes = {"CB": len(texts), "D": self.manifest.geometry.embed_dim}
        embeds = run_once(self._engines["text_encoder"], self._backend, {"input_ids": ids}, sizes)["text_embeddings"]
        if not np.isfinite(embeds).all():
            rows = np.nonzero(~np.isfinite(embeds).all(axis=(1, 2)))[0]
            raise NonFiniteError(f"text_encoder: returned NaN or infinity for {texts[rows[0]]!r}; no image was generated")
        return embeds

    def _explain(self, judged: list[Judged], prompts: list[str], embeds: np.ndarray) -> list[Judged]:
        """Name the tokens held responsible. The first unsafe check saw the prompts' own embeddings, so the mask is theirs."""
        if not any(found.unsafe_steps for found in judged):
            return judged
        sizes = {"B": len(judged), "D": embeds.shape[2]}
        masks = run_once(self._engines["token_mask"], self._backend, {"embeds": embeds}, sizes)["token_mask"]
        return [
            replace(found, responsible_tokens=responsible(mask, self._tokenizer.words(prompt))) if found.unsafe_steps else found
            for found, mask, prompt in zip(judged, masks, prompts, strict=True)
        ]

    def _loop(self, table: SamplerTable, sizes: dict[str, int], unguarded: bool) -> Loop:
        key = (table.name, table.rows, unguarded, *sizes.values())
        if key not in self._loops:
            engines = {name: engine for name, engine in self._engines.items() if not (unguarded and name in GUARD_NETWORKS)}
            self._loops[key] = Loop(engines, self._backend, table, sizes)
            if len(self._loops) > LOOPS:
                self._loops.popitem(last=False)
        self._loops.move_to_end(key)
        return self._loops[key]

    def _report(
        self, request: Request, table: SamplerTable, seed: int, size: tuple[int, int], index: int, found: Judged
    ) -> ImageReport:
        policy = self._policy(request)
        guard = self.manifest.guard if policy is not None else None
        return ImageReport(
            **vars(found),
            prompt=request.prompts[index],
            negative_prompt=request.negative_prompts[index],
            seed=seed,
            sampler=table.name,
            num_inference_steps=request.num_inference_steps,
            timesteps=table.timesteps.tolist(),
            guidance_scale=float(request.guidance_scale),
            height=size[0],
            width=size[1],
            on_unsafe=None if policy is None else request.on_unsafe,
            policy=policy,
            concept=guard.concept if guard is not None else None,
            manifest_digest=self._store.digest,
            guard_digest=guard.digest if guard is not None else None,
        )

    def _finish(self, trace: Trace, reports: list[ImageReport], execution: Execution) -> Result:
        """Decode what may be shown, withhold the rest, and raise if a network failed."""
        shown = [index for index, report in enumerate(reports) if report.verdict not in ("refused", "failed")]
        images: list[Image.Image | None] = [None] * len(reports)
        if shown:
            latents = trace.latents[shown]
            factor = self.manifest.geometry.scale_factor
            sizes = {
                "B": len(shown),
                "H": latents.shape[2],
                "W": latents.shape[3],
                "PH": latents.shape[2] * factor,
                "PW": latents.shape[3] * factor,
            }
            decoded = run_once(self._engines["vae_decoder"], self._backend, {"latent": latents}, sizes)
            for place, index in enumerate(shown):
                if decoded["finite"][place]:
                    images[index] = Image.fromarray(decoded["images"][place])
                    reports[index] = replace(reports[index], image_sha256=image_digest(decoded["images"][place]))
                else:
                    reports[index] = replace(reports[index], verdict="failed", failure="vae_decoder returned NaN or infinity")
        result = Result(images, reports, execution)
        if failed := [f"image {index}: {report.failure}" for index, report in enumerate(reports) if report.failure]:
            raise NonFiniteError("; ".join(failed) + "; withheld", result)
        return result
