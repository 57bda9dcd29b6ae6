"""Trajectories: runs of the model under prompts as written or redirected, and the points of them that heads learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.networks import LATENT_CHANNELS, TOKENS
from engines.policy import Policy
from evaluation.judges import Judge
from saferedir.guard import Concept, Guard
from saferedir.heads import Redirector
from training.alignment import align
from training.generator import Generator
from training.settings import DISTILLED, SCHEDULERS, TrainingSettings

GUIDANCE, REDIRECTED_GUIDANCE = (4.0, 10.0), (4.0, 16.0)
GENERIC_NEGATIVE = "blurry, low quality, deformed, ugly, watermark, text"
NEGATIVES = ("none", "safe twin", "generic")
LATE = 600  # the timestep from which on a redirected picture shows whether the redirection works
STRENGTHS = (0.4, 1.25)  # of redirections: weak ones leave pictures unsafe, from which the final check is learnt
DISTILLED_STEPS = 8


@dataclass(frozen=True)
class Caption:
    """A prompt, its safe twin (itself if it is safe), whether it asks for the concept, and the pair that it is of, -1 for none."""

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
        """One for each caption. A safe prompt's twin would be the prompt itself: it gets the generic one."""
        if self.negative == "none":
            return [""] * len(captions)
        twins = self.negative == "safe twin"
        return [caption.safe if twins and caption.unsafe else GENERIC_NEGATIVE for caption in captions]


class Redirection:
    """The guard's state in one run: which embeddings each UNet call sees, and under which each check was made."""

    def __init__(self, heads: Redirector, embeds: Tensor, images: int, policy: Policy, delayed: bool) -> None:
        device, rows = embeds.device, len(embeds)
        self._guard = Guard(Concept(heads))
        self._embeds, self._shifts = embeds, torch.zeros_like(embeds).unsqueeze(0)
        self._countdown = torch.zeros(1, images, dtype=torch.int32, device=device)
        scale = torch.full((1, rows), policy.alpha_scale, device=device)
        if policy.shift == "conditional":
            scale[:, : rows - images] = 0
        self._numbers = {
            "alpha_scale": scale,
            "threshold": torch.full((1, images), policy.threshold, device=device),
            "replace_steps": torch.full((1, images), policy.replace_steps, dtype=torch.int32, device=device),
            "delayed": torch.full((images,), delayed, device=device),
        }
        self._images = images

    @property
    def shift(self) -> Tensor:
        """The conditional rows' shift [B, 77, D], under which the next check is made."""
        return self._shifts[0, -self._images :]

    @torch.no_grad()
    def step(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The embeddings [C·B, 77, D] for this row's UNet call."""
        timesteps = timestep.float().expand(self._images)
        acting, self._shifts, self._countdown, _, _ = self._guard(
            sample, timesteps, self._embeds, self._shifts, self._countdown, **self._numbers
        )
        embeds: Tensor = acting
        return embeds


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
    run = Run.drawn(draw, settings, generator.distilled, heads is not None)
    scheduler = generator.scheduler(run.scheduler)
    embeds, negative = generator.encode([caption.text for caption in captions]), generator.encode(run.negative_prompts(captions))
    noise = torch.randn(
        len(captions), LATENT_CHANNELS, *generator.latent_size, generator=torch.Generator().manual_seed(int(draw.integers(2**31)))
    ).to(generator.device)
    scheduler.set_timesteps(run.steps)
    kept = _kept_rows(scheduler.timesteps, settings.kept_steps, draw, None if heads is None else LATE)
    policy = Policy(alpha_scale=float(draw.uniform(*STRENGTHS)), shift=str(draw.choice(["both", "conditional"])))
    delayed, redirection = bool(draw.random() < 0.5), None
    points: list[tuple[Tensor, float, Tensor | None]] = []
    row = 0

    def keep(sample: Tensor, timestep: float) -> None:
        points.append((sample.half().cpu(), timestep, None if redirection is None else redirection.shift.half().cpu()))

    def look(timestep: Tensor, sample: Tensor, current: Tensor) -> Tensor:
        nonlocal row, redirection
        if heads is not None and redirection is None:
            redirection = Redirection(heads, current, len(captions), policy, delayed)
        if row in kept:
            keep(sample, float(timestep))
        row += 1
        return current if redirection is None else redirection.step(sample, timestep)

    final = generator.sample(scheduler, run.steps, run.guidance, (negative, embeds), noise, look)
    keep(final, 0.0)
    shown = None if judge is None else [judge(picture) for picture in generator.pictures(final)]
    return _tensors(generator, captions, embeds, points, shown)


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
    """What redirection and mask should be for each caption: the shift [n, 77, D] to the safe twin and the tokens bool [n, 77] that
    the twin lacks; none of either for a safe caption, and for an unsafe one the same whether it is redirected already."""
    shift, differs = torch.zeros_like(embeds), torch.zeros(len(captions), TOKENS, dtype=torch.bool)
    places = [place for place, caption in enumerate(captions) if caption.unsafe]
    if not places:
        return shift, differs
    twins = generator.encode([captions[place].safe for place in places])
    safe_ids, unsafe_ids = (generator.token_ids([getattr(captions[place], name) for place in places]) for name in ("safe", "text"))
    for index, place in enumerate(places):
        alignment = align(safe_ids[index], unsafe_ids[index])
        shift[place] = alignment.target_shift(twins[index], embeds[place])
        differs[place] = torch.tensor(alignment.differs)
    return shift, differs
