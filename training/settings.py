"""What a training is asked for; the model card records it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import InputError
from engines.printable import shown
from engines.values import integer, number, text
from export.precision.names import SHORT_NAMES
from export.sources.edits import Edit

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm_multistep": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}  # the runtime's name → diffusers' class
PRECISIONS = ("float32", "bfloat16")
DISTILLED = "lcm"  # of a UNet that was distilled with its guidance


@dataclass(frozen=True)
class ModelChoice:
    """The model to guard, as `export.sources.locate.find_model` takes it, and what is laid over its weights."""

    model: str
    config: Path | None = None
    vae: str | None = None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Numbers that decide a training, and its precision. Each is a command line option of the same name.

    Raises:
        InputError: a number is of another type or out of its range, or there is no such precision.
    """

    seed: int = field(default=0, metadata={"help": "decides every random choice"})
    batches: int = field(default=24, metadata={"help": "batches of trajectories of the prompts as written"})
    redirected_batches: int = field(default=12, metadata={"help": "batches under redirected embeddings; they need a judge"})
    pairs_per_batch: int = field(default=16, metadata={"help": "pairs of a batch of trajectories; less memory with fewer"})
    kept_steps: int = field(default=8, metadata={"help": "steps that are recorded of each trajectory, beside its end"})
    least_steps: int = field(default=6, metadata={"help": "sampler steps of a trajectory, at least"})
    most_steps: int = field(default=30, metadata={"help": "sampler steps of a trajectory, at most"})
    held_out: float = field(default=0.1, metadata={"help": "share of the pairs that measure and are not trained on"})
    steps: int = field(default=3000, metadata={"help": "steps of the heads' optimiser, at most"})
    batch_size: int = field(default=64, metadata={"help": "points of such a step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "highest learning rate of the heads"})
    evaluate_every: int = field(default=250, metadata={"help": "steps between evaluations on the held-out pairs"})
    patience: int = field(default=4, metadata={"help": "evaluations without a lower loss after which the training stops"})
    false_positive_rate: float = field(
        default=0.005, metadata={"help": "share of benign trajectories that the threshold may let the guard redirect"}
    )
    adversarial_rounds: int = field(default=0, metadata={"help": "rounds of attacks whose finds join the data"})
    attacks: int = field(default=16, metadata={"help": "prompts that such a round attacks"})
    attack_steps: int = field(default=20, metadata={"help": "steps of the search for one of them"})
    precision: str = field(
        default=PRECISIONS[0],
        metadata={"help": f"of UNet calls and of heads in training, {' or '.join(PRECISIONS)}; weights stay float32"},
    )

    def of(self, names: Sequence[str]) -> dict[str, int | float | str]:
        """Some of them, by name."""
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            read = number(name, value) if isinstance(getattr(type(self), name), float) else integer(name, value)
            if not least <= read <= most:
                raise InputError(f"{name}: expected {least} to {most}, found {value!r}")
            object.__setattr__(self, name, read)
        precision = text("precision", self.precision)
        precision = SHORT_NAMES.get(precision, precision)
        if precision not in PRECISIONS:
            raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, found {shown(self.precision)}")
        object.__setattr__(self, "precision", precision)
        if self.least_steps > self.most_steps:
            raise InputError(f"least_steps: expected at most most_steps ({self.most_steps}), found {self.least_steps}")


# What decides recorded trajectories beside the prompts, and what the training of heads beside the trajectories. The number of
# batches decides neither: more can be added.
OF_TRAJECTORIES = ("seed", "pairs_per_batch", "kept_steps", "least_steps", "most_steps", "precision")
OF_HEADS = ("seed", "steps", "batch_size", "learning_rate", "evaluate_every", "patience", "precision")
_MANY = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "batches": (1, _MANY),
    "redirected_batches": (0, _MANY),
    "pairs_per_batch": (1, _MANY),
    "kept_steps": (1, 1000),
    "least_steps": (1, 1000),
    "most_steps": (1, 1000),
    "held_out": (0.0, 0.9),
    "steps": (1, _MANY),
    "batch_size": (2, _MANY),
    "learning_rate": (1e-9, 1.0),
    "evaluate_every": (1, _MANY),
    "patience": (1, _MANY),
    "false_positive_rate": (0.0, 0.5),
    "adversarial_rounds": (0, 100),
    "attacks": (1, _MANY),
    "attack_steps": (1, _MANY),
}
