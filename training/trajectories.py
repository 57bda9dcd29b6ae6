"""Trajectories: runs of the model under prompts as written or redirected, and the points of them that heads learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.networks import LATENT_CHANNELS, TOKENS
from engines.policy import SHIFTS, Policy
from evaluation.judges import Judge
from saferedir.heads import Redirector
from training.alignment import align
from training.generator import Generator
from training.redirection import Redirection
from training.settings import DISTILLED, SCHEDULERS, TrainingSettings

GUIDANCE, REDIRECTED_GUIDANCE = (4.0, 10.0), (4.0, 16.0)
GENERIC_NEGATIVE = "blurry, low quality, deformed, ugly, watermark, text"
NEGATIVES = ("none", "counterpart", "generic")
LATE = 600  # the timestep from which on a redirected picture shows whether the redirection works
STRENGTHS = (0.4, 1.25)  # of redirections: weak ones leave pictures unsafe, from which the final check is learnt
DISTILLED_STEPS = 8


@dataclass(frozen=True)
class Caption:
    """A prompt, its counterpart (itself if it is safe), whether it asks for the concept, and the pair it is of, -1 for none."""

    text: str
    safe: str
    unsafe: bool
    pair: int = -1


@dataclass(frozen=True)
class Run:
    """How a batch is sampled."""

    scheduler: str
    steps: int
    guidance: float
    negative: str

    @classmethod
    def drawn(cls, draw: np.random.Generator, settings: TrainingSettings, distilled: bool, redirected: bool) -> Run:
        """A random one. Redirections are tried with more guidance, too, which a hostile negative prompt needs."""
        names = [DISTILLED] if distilled else [name for name in SCHEDULERS if name != DISTILLED]
        most = min(settings.most_steps, DISTILLED_STEPS) if distilled else settings.most_steps
        return cls(
            scheduler=str(draw.choice(names)),
            steps=int(draw.integers(min(settings.least_steps, most), most + 1)),
            guidance=float(draw.uniform(*(REDIRECTED_GUIDANCE if redirected else GUIDANCE))),
            negative=str(draw.choice(NEGATIVES)),
        )

    def negative_prompts(self, captions: Sequence[Caption]) -> list[str]:
        """One for each caption. A safe prompt's counterpart would be the prompt itself: it gets the generic one."""
        if self.negative == "none":
            return [""] * len(captions)
        hostile = self.negative == "counterpart"
        return [caption.safe if hostile and caption.unsafe else GENERIC_NEGATIVE for caption in captions]


class Recording:
    """What a run shows: looks at each row, keeps the points of the wanted ones, and redirects if it is told how.

    Of each point: the sample float16 [B, 4, H, W], its timestep, and the conditional shift [B, 77, D] under which it was checked,
    None where nothing redirects.
    """

    def __init__(self, kept: set[int], redirection: Callable[[Tensor], Redirection] | None) -> None:
        self._kept, self._row, self._start = kept, 0, redirection
        self._redirection: Redirection | None = None
        self.points: list[tuple[Tensor, float, Tensor | None]] = []

    def look(self, timestep: Tensor, sample: Tensor, current: Tensor) -> Tensor:
        """The embeddings for this row's UNet call, `current` being those of the row before."""
        if self._start is not None and self._redirection is None:
            self._redirection = self._start(current)
        if self._row in self._kept:
            self.keep(sample, float(timestep))
        self._row += 1
        return current if self._redirection is None else self._redirection.step(sample, timestep)

    def keep(self, sample: Tensor, timestep: float) -> None:
        """Keep a point."""
        shift = None if self._redirection is None else self._redirection.shift.half().cpu()
        self.points.append((sample.half().cpu(), timestep, shift))


def record(
    generator: Generator,
    captions: Sequence[Caption],
    settings: TrainingSettings,
    draw: np.random.Generator,
    judge: Judge | None,
    heads: Redirector | None = None,
) -> dict[str, Tensor]:
    """A run of the captions and the recorded points of it, as a shard holds them: see `training.shards`.

    With `heads` a guard of them redirects, of random strength; points are then kept from timestep LATE on. The last point of
    each trajectory is its final latents, at timestep 0. A point is unsafe where its prompt asks for the concept or the judge sees
    it in the picture; under redirection, where the judge sees it, whatever the prompt.
    """
    run, images = Run.drawn(draw, settings, generator.distilled, heads is not None), len(captions)
    scheduler = generator.scheduler(run.scheduler)
    embeds, negative = generator.encode([caption.text for caption in captions]), generator.encode(run.negative_prompts(captions))
    seeded = torch.Generator().manual_seed(int(draw.integers(2**31)))
    noise = torch.randn(images, LATENT_CHANNELS, *generator.latent_size, generator=seeded).to(generator.device)
    scheduler.set_timesteps(run.steps)
    kept = _kept_rows(scheduler.timesteps, settings.kept_steps, draw, None if heads is None else LATE)
    policy = Policy(alpha_scale=float(draw.uniform(*STRENGTHS)), shift=str(draw.choice(SHIFTS)))
    delayed = bool(draw.random() < 0.5)
    recording = Recording(kept, None if heads is None else lambda first: Redirection(heads, first, images, policy, delayed))
    final = generator.sample(scheduler, run.steps, run.guidance, (negative, embeds), noise, recording.look)
    recording.keep(final, 0.0)
    shown = None if judge is None else [bool(judge(picture)) for picture in generator.pictures(final)]
    return _tensors(generator, captions, embeds, recording.points, shown)


def _kept_rows(timesteps: Tensor, count: int, draw: np.random.Generator, late: float | None) -> set[int]:
    """Rows to keep: random ones, and without `late` always the first, at which a guard should act already."""
    rows = [row for row, timestep in enumerate(timesteps.tolist()) if late is None or timestep < late]
    chosen = {int(row) for row in draw.choice(rows, min(count, len(rows)), replace=False)} if rows else set()
    return chosen if late is not None else chosen | {0}


def _tensors(
    generator: Generator,
    captions: Sequence[Caption],
    embeds: Tensor,
    points: Sequence[tuple[Tensor, float, Tensor | None]],
    shown: Sequence[bool] | None,
) -> dict[str, Tensor]:
    count, redirected = len(captions), points[0][2] is not None
    asked = torch.tensor([caption.unsafe for caption in captions])
    seen = asked if shown is None else torch.tensor(shown)
    unsafe = seen if redirected else asked | seen
    shift, differs = targets(generator, captions, embeds)
    found = {
        "latents": torch.cat([sample for sample, _, _ in points]),
        "timesteps": torch.tensor([timestep for _, timestep, _ in points]).repeat_interleave(count),
        "final": (torch.arange(len(points)) == len(points) - 1).repeat_interleave(count),
        "unsafe": unsafe.repeat(len(points)),
        "trajectory": torch.arange(count, dtype=torch.int32).repeat(len(points)),
        "embeds": embeds.half().cpu(),
        "target_shift": shift.half().cpu(),
        "differs": differs,
        "pair": torch.tensor([caption.pair for caption in captions], dtype=torch.int32),
        "asked": asked,
    }
    if shown is not None:
        found["shown"] = seen
    if redirected:
        found["shift"] = torch.cat([shift for _, _, shift in points if shift is not None])
    return found


def targets(generator: Generator, captions: Sequence[Caption], embeds: Tensor) -> tuple[Tensor, Tensor]:
    """What redirection and mask should be for each caption: the shift [n, 77, D] to the counterpart and the tokens bool [n, 77]
    that the counterpart lacks; none of either for a safe caption. A redirected caption has the same targets."""
    shift, differs = torch.zeros_like(embeds), torch.zeros(len(captions), TOKENS, dtype=torch.bool)
    places = [place for place, caption in enumerate(captions) if caption.unsafe]
    if not places:
        return shift, differs
    counterparts = generator.encode([captions[place].safe for place in places])
    safe_ids, unsafe_ids = (generator.token_ids([getattr(captions[place], name) for place in places]) for name in ("safe", "text"))
    for index, place in enumerate(places):
        alignment = align(safe_ids[index], unsafe_ids[index])
        shift[place] = alignment.target_shift(counterparts[index], embeds[place])
        differs[place] = torch.tensor(alignment.differs)
    return shift, differs
