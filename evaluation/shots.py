"""Shots: pictures made with the guard or without it, kept batch by batch, so that an evaluation goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engines import __version__
from engines.decode import decode
from engines.errors import InputError, NonFiniteError
from engines.policy import TYPES
from engines.printable import shown
from engines.prompts import TruncationWarning
from engines.store.atomic import replacing
from evaluation.conditions import COUNTERPART, GUARD_ONLY
from evaluation.prompt_files import Prompt
from runtime import GuardedPipeline, ImageReport, Result
from runtime.png import image_digest

FORMAT = 1  # of a kept batch
# The guard looks at every step and changes nothing: pictures as without it, and what it thinks of them.
WATCHED = {"on_unsafe": "monitor"}


@dataclass(frozen=True)
class Shot:
    """What came of one prompt.

    verdict        the report's
    triggered      whether a check found it unsafe
    p_unsafe       highest of its checks and concepts; None where a network failed
    final_p_unsafe highest of its final checks
    cut            whether the end of its prompt was not read, beyond 77 tokens
    picture        its PNG file, in the output folder; None where it was withheld
    sha256         of its pixels
    """

    verdict: str
    triggered: bool
    p_unsafe: float | None
    final_p_unsafe: float | None
    cut: bool
    picture: str | None
    sha256: str | None


@dataclass(frozen=True)
class Studio:
    """Makes the pictures of one engine folder, whose manifest has this SHA-256, in batches, and keeps them under `output`."""

    pipeline: GuardedPipeline
    manifest_digest: str
    output: Path
    batch_size: int
    size: tuple[int | None, int | None] = (None, None)  # height, width

    def shots(
        self, prompts: Sequence[Prompt], options: Mapping[str, Any], guarded: bool, progress: Callable[[int], object]
    ) -> list[Shot]:
        """One for each prompt. What an earlier run has kept is not made again; `progress` is told of each batch's prompts."""
        if not guarded:
            options = {name: value for name, value in options.items() if name not in GUARD_ONLY} | WATCHED
        shots: list[Shot] = []
        for start in range(0, len(prompts), self.batch_size):
            part = prompts[start : start + self.batch_size]
            shots += self._kept(part, options) or self._make(part, options)
            progress(len(part))
        return shots

    def pixels(self, shot: Shot) -> np.ndarray | None:
        """The picture, uint8 [H, W, 3], None where it was withheld.

        Raises:
            InputError: the file is not the picture that was made.
        """
        if shot.picture is None:
            return None
        path = self.output / shot.picture
        try:
            with Image.open(path, formats=["PNG"]) as image:
                pixels = np.asarray(image)
        except (OSError, SyntaxError) as error:
            raise InputError(f"{path}: expected a picture, found none ({error}); delete {_batches(self.output)}") from None
        if image_digest(pixels) != shot.sha256:
            raise InputError(f"{path}: expected the picture that was made, found an altered one; delete {_batches(self.output)}")
        return pixels

    def _key(self, part: Sequence[Prompt], options: Mapping[str, Any]) -> str:
        """SHA-256 of all that decides the pictures of a batch."""
        prompts = [(prompt.text, prompt.seed, prompt.guidance_scale, prompt.counterpart) for prompt in part]
        decides = [FORMAT, __version__, self.manifest_digest, self.size, sorted(options.items()), prompts]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]

    def _kept(self, part: Sequence[Prompt], options: Mapping[str, Any]) -> list[Shot] | None:
        path = _batches(self.output) / f"{self._key(part, options)}.json"
        try:
            content = json.loads(path.read_bytes())
            return [decode(Shot, each, "shot") for each in content]
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: expected a kept batch, found another content ({error}); delete it") from None

    def _make(self, part: Sequence[Prompt], options: Mapping[str, Any]) -> list[Shot]:
        """Pictures first, then the batch's record, written whole: what has no record is made again."""
        key = self._key(part, options)
        folder = self.output / "pictures" / key
        folder.mkdir(parents=True, exist_ok=True)
        result = self._call(part, options)
        shots = []
        for index, (image, report) in enumerate(zip(result.images, result.reports, strict=True)):
            if image is not None:
                image.save(folder / f"{index}.png")
            shots.append(_shot(report, None if image is None else f"pictures/{key}/{index}.png"))
        _batches(self.output).mkdir(parents=True, exist_ok=True)
        with replacing(_batches(self.output) / f"{key}.json") as temporary:
            temporary.write_text(json.dumps([asdict(shot) for shot in shots], indent=1) + "\n")
        return shots

    def _call(self, part: Sequence[Prompt], options: Mapping[str, Any]) -> Result:
        """The pipeline's result. Its warnings and errors about texts would print them, so they are replaced."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # counted in the report
            try:
                return self.pipeline([prompt.text for prompt in part], **self._arguments(part, options))
            except NonFiniteError as error:
                if isinstance(error.result, Result):
                    return error.result  # failed pictures are withheld, and counted in the report
                cases = shown([prompt.case for prompt in part])
                raise NonFiniteError(f"text_encoder: returned NaN or infinity for a prompt of {cases}") from None

    def _arguments(self, part: Sequence[Prompt], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as the pipeline takes them. A condition's guidance goes before a file's."""
        arguments = {name: value for name, value in options.items() if name not in TYPES and value is not None}
        if numbers := {name: options[name] for name in TYPES if options.get(name) is not None}:
            guards = self.pipeline.manifest.guards
            arguments["policy"] = {guard.concept: replace(guard.policy, **numbers) for guard in guards}
        default = arguments.pop("default_guidance_scale")
        arguments.setdefault("guidance_scale", [default if each.guidance_scale is None else each.guidance_scale for each in part])
        if arguments.get("negative_prompt") == COUNTERPART:
            arguments["negative_prompt"] = [_counterpart(prompt) for prompt in part]
        height, width = self.size
        return {**arguments, "seed": [prompt.seed for prompt in part], "height": height, "width": width}


def _counterpart(prompt: Prompt) -> str:
    if prompt.counterpart is None and prompt.label == "unsafe":
        raise InputError(f"negative_prompt {COUNTERPART}: expected prompts with a counterpart, found none for {shown(prompt.case)}")
    return prompt.counterpart or ""


def _batches(output: Path) -> Path:
    return output / "batches"


def _shot(report: ImageReport, picture: str | None) -> Shot:
    return Shot(
        verdict=report.verdict,
        triggered=any(guard.unsafe_steps for guard in report.guards),
        p_unsafe=_highest(report, [value for guard in report.guards for value in guard.p_unsafe]),
        final_p_unsafe=_highest(report, [guard.final_p_unsafe for guard in report.guards]),
        cut=bool(report.cut),
        picture=picture,
        sha256=report.image_sha256,
    )


def _highest(report: ImageReport, values: Sequence[float | None]) -> float | None:
    """Of a picture in which a network failed, none can be relied on."""
    return None if report.verdict == "failed" else max((value for value in values if value is not None), default=None)
