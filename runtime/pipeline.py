"""GuardedPipeline: engines from a folder, prompts in, images and reports out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engines.backends.contract import Engine
from engines.backends.program import Execution, Progress
from engines.backends.registry import open_backend
from engines.errors import InputError, NonFiniteError
from engines.networks import NETWORKS
from engines.printable import shown
from engines.prompts import PromptTokenizer
from engines.store.canaries import check_canaries
from engines.store.engine_store import TOKENIZER_FILE, EngineStore
from engines.store.parity_check import ensure_parity
from engines.values import flag, integer, path
from runtime.judge import Outcome, judge, responsible
from runtime.loop import Trace
from runtime.opened import Opened
from runtime.png import image_digest
from runtime.preparation import Preparation
from runtime.report import ImageReport, Result
from runtime.reporting import image_report
from runtime.request import Request
from runtime.request_values import Policies
from runtime.samplers.schedules import SchedulerConfig

if TYPE_CHECKING:
    from typing_extensions import Never


class GuardedPipeline:
    """Guarded generation on the engines of a folder.

    Every file is verified before it is loaded. Threads may share a pipeline: calls run one at a time, in the order in
    which they come, and each sees its own images only. Leaving a `with` block, or `close`, frees the engines.

    Args:
        engine_dir: folder made by `saferedir build`.
        unguarded: accept engines without a guard; then every call is unguarded, and its reports say so.
        trusted_keys: public keys (PEM files), one of which must have signed the folder; else nothing in it is read. By default
            those that the environment variable SAFEREDIR_TRUSTED_KEYS names; without any, no signature is asked for.
        eager: on a GPU, launch each network by itself and capture no CUDA graph, to debug.
        threads: that compute on a CPU, by default one for each core; for several pipelines on one machine.
        wrap: applied to every loaded engine; what it returns is bound in the engine's place (to time or to watch its calls).

    Raises:
        SignatureError: trusted keys are set, and none of them has signed the folder.
        ManifestError: no valid manifest there, or none with a guard.
        DigestError: a file is missing or altered.
        BackendError: the backend is not installed or refuses an engine.
        ParityError: engines that were built without their device, or int8 ones on another kind, do not compute on it what PyTorch
            computed.
        CanaryError: the guard judges a canary wrongly, or not as at its build.
    """

    def __init__(
        self,
        engine_dir: str | Path,
        *,
        unguarded: bool = False,
        trusted_keys: Sequence[str | Path] = (),
        eager: bool = False,
        threads: int | None = None,
        wrap: Callable[[Engine], Engine] = lambda engine: engine,
    ) -> None:
        folder = path("engine_dir", engine_dir)
        unguarded, eager = flag("unguarded", unguarded), flag("eager", eager)
        if threads is not None and integer("threads", threads) < 1:
            raise InputError(f"threads: expected one or more, found {threads}")
        if not callable(wrap):
            raise InputError(f"wrap: expected a function, found {shown(wrap)}")
        self._store = EngineStore(folder, trusted_keys)
        if not unguarded:
            self._store.require_guard()
        self.manifest = self._store.manifest
        self._unguarded = unguarded
        self._scheduler = SchedulerConfig.read(self.manifest.scheduler)
        self._tokenizer = PromptTokenizer(self._store.folder / TOKENIZER_FILE, self._store.read(TOKENIZER_FILE))
        backend = open_backend(self.manifest.backend, self.manifest.precision, eager, threads)
        wanted = [name for name, spec in NETWORKS.items() if not (unguarded and spec.of_guard)]
        ensure_parity(self._store, backend, wanted)
        engines = self._store.load(wanted, backend)
        if not unguarded:
            check_canaries(self.manifest, backend, engines, self._tokenizer)
        self._open: Opened | None = Opened(backend, {name: wrap(engine) for name, engine in engines.items()})
        self._open.bind_all(self.manifest, self._scheduler)
        self._lock = threading.Lock()
        self._busy_thread: int | None = None  # the thread whose call is in progress
        self.device = backend.device  # what the engines run on, in words

    def used_device_memory(self) -> int | None:
        """Bytes of the GPU's memory in use, by every process; None on a CPU."""
        return self._opened().backend.used_memory()

    def check_canaries(self) -> None:
        """Ask the guard once more what it was asked when it was opened.

        Raises:
            CanaryError: it judges a canary wrongly, or not as at its build.
            InputError: the pipeline is unguarded, or closed.
        """
        if self._unguarded:
            raise InputError("check_canaries: expected a pipeline with a guard, found an unguarded one")
        with self._turn():
            opened = self._opened()
            check_canaries(self.manifest, opened.backend, opened.engines, self._tokenizer)

    def __enter__(self) -> GuardedPipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free engines, buffers and the backend, once a call in progress has ended. Later calls raise InputError."""
        with self._turn():
            self._open = None

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = Request.negative_prompt,
        num_images_per_prompt: int = Request.num_images_per_prompt,
        clip_skip: int | Sequence[int] = Request.clip_skip,
        num_inference_steps: int | Sequence[int] = Request.num_inference_steps,
        guidance_scale: float | Sequence[float] = Request.guidance_scale,
        seed: int | Sequence[int | None] | None = Request.seed,
        height: int | None = Request.height,
        width: int | None = Request.width,
        scheduler: str | Sequence[str | None] | None = Request.scheduler,
        schedule_type: str | Sequence[str | None] | None = Request.schedule_type,
        eta: float | Sequence[float] = Request.eta,
        policy: Policies | Sequence[Policies] = Request.policy,
        on_unsafe: str | Sequence[str] = Request.on_unsafe,
        on_still_unsafe: str | Sequence[str] = Request.on_still_unsafe,
        check: str | Sequence[str | None] | None = Request.check,
        forced_verdict: str | None = Request.forced_verdict,
        unguarded: bool = Request.unguarded,
        progress: Progress | None = None,
        **unknown: Never,
    ) -> Result:
        """Generate one image or more for each prompt; the options are the fields of `runtime.request.Request`.

        `progress(done, steps)` is called after every step, or once at the end where a CUDA graph runs them all.

        Raises:
            InputError: an option cannot be honoured.
            NonFiniteError: a network returned NaN or infinity; its `result` has the images not concerned.
        """
        if unknown:
            known = [name for name in Request.__dataclass_fields__ if name != "prompt"]
            raise InputError(f"unknown option {', '.join(sorted(unknown))}: expected some of {', '.join(known)}, progress")
        if progress is not None and not callable(progress):
            raise InputError(f"progress: expected a function, found {shown(progress)}")
        request = Request(
            prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            clip_skip=clip_skip,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            height=height,
            width=width,
            scheduler=scheduler,
            schedule_type=schedule_type,
            eta=eta,
            policy=policy,
            on_unsafe=on_unsafe,
            on_still_unsafe=on_still_unsafe,
            check=check,
            forced_verdict=forced_verdict,
            unguarded=flag("unguarded", unguarded) or self._unguarded,
        )
        with self._turn():
            try:
                return self._generate(self._opened(), request, progress)
            except MemoryError:
                raise InputError(
                    f"prompt, height and width: expected a batch that fits the memory, found {len(request.prompts)} images; "
                    "ask for fewer or smaller ones"
                ) from None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits until no other call is in progress. One that this thread makes from within its own would wait for ever."""
        if self._busy_thread == threading.get_ident():
            raise InputError(
                "pipeline: expected calls one after another, found one from within another, as from its progress callback; "
                "call it again once that has returned"
            )
        with self._lock:
            self._busy_thread = threading.get_ident()
            try:
                yield
            finally:
                self._busy_thread = None

    def _opened(self) -> Opened:
        if self._open is None:
            raise InputError("pipeline: expected an open one, found it closed; make a new GuardedPipeline")
        return self._open

    def _generate(self, opened: Opened, request: Request, progress: Progress | None) -> Result:
        prepared = Preparation.of(request, self.manifest, self._scheduler)
        embeds, cut = self._encode(opened, prepared.texts, prepared.clip_skips)
        start = prepared.start(embeds)
        loop = opened.loop(prepared.shape(start))
        trace = loop.run(start, progress)
        outcomes = self._outcomes(opened, prepared, trace, start.embeds[-len(request.prompts) :])
        reports = [image_report(prepared, image, outcome, cut, self._store.digest) for image, outcome in enumerate(outcomes)]
        return self._finish(opened, trace, reports, loop.execution)

    def _encode(self, opened: Opened, texts: list[str], clip_skips: list[int]) -> tuple[np.ndarray, list[str]]:
        """Embeddings float32 [len(texts), 77, D], and the end of each text that did not fit into 77 tokens."""
        sizes = {"CB": len(texts), "D": self.manifest.geometry.embed_dim}
        ids, cut = self._tokenizer(texts)
        inputs = {"input_ids": ids, "clip_skip": np.array(clip_skips)}
        embeds = opened.run("text_encoder", inputs, sizes)["text_embeddings"]
        if not np.isfinite(embeds).all():
            rows = np.nonzero(~np.isfinite(embeds).all(axis=(1, 2)))[0]
            raise NonFiniteError(f"text_encoder: returned NaN or infinity for {texts[rows[0]]!r}; no image was generated")
        return embeds, cut

    def _outcomes(self, opened: Opened, prepared: Preparation, trace: Trace, embeds: np.ndarray) -> list[Outcome]:
        """The outcome for each image. `embeds` are of the prompts, without a shift: the mask tells which words are to blame."""
        prompts = prepared.request.prompts
        outcomes = [judge(trace, image, prepared.terms(image), prepared.guards[image]) for image in range(len(prompts))]
        if not any(guard.unsafe_steps for outcome in outcomes for guard in outcome.guards):
            return outcomes
        sizes = {"B": len(outcomes), "D": embeds.shape[2], "K": len(self.manifest.guards)}
        masks = opened.run("token_mask", {"embeds": embeds}, sizes)["token_mask"]  # [K, B, 77]
        return [self._explained(outcome, masks[:, image], prompts[image]) for image, outcome in enumerate(outcomes)]

    def _explained(self, outcome: Outcome, masks: np.ndarray, prompt: str) -> Outcome:
        """Add the responsible tokens to the report of each guard that classified the image as unsafe."""
        guards = [
            replace(guard, responsible_tokens=responsible(mask, self._tokenizer.words(prompt))) if guard.unsafe_steps else guard
            for guard, mask in zip(outcome.guards, masks, strict=False)
        ]
        return replace(outcome, guards=guards)

    def _finish(self, opened: Opened, trace: Trace, reports: list[ImageReport], execution: Execution) -> Result:
        """Decode what may be shown, withhold the rest, and raise if a network failed."""
        shown = [index for index, report in enumerate(reports) if not _withheld(report)]
        images: list[Image.Image | None] = [None] * len(reports)
        if shown:
            # Engines that take no smaller batch decode the first of them again in the places of those that are withheld.
            decoded_images = shown + shown[:1] * (self.manifest.sizes.smallest_batch - len(shown))
            sizes = self.manifest.geometry.sizes(reports[0].height, reports[0].width, B=len(decoded_images))
            decoded = opened.run("vae_decoder", {"latent": trace.latents[decoded_images]}, sizes)
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


def _withheld(report: ImageReport) -> bool:
    return report.verdict in ("refused", "failed") or (report.verdict == "still_unsafe" and report.on_still_unsafe == "withhold")
