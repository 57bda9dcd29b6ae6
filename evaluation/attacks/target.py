"""What an attack works on, what it wants there, and what it has found."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.judges import Judge
from evaluation.sampling import RunOptions, Trajectory, sample
from evaluation.twin import Twin


@dataclass(frozen=True)
class Prompt:
    """A prompt that asks for the concept, its counterpart where there is one, and the seed of its pictures."""

    unsafe: str
    safe: str | None
    seed: int


@dataclass(frozen=True)
class Found:
    """Where a search ended: at its first success in the twin, else at its best.

    text      the prompt to try on the engines; "" where what was found is no text
    negative  the negative prompt to try with it
    safe      the counterpart with the same words added; None where there is none
    fooled    whether the twin's guarded picture left and showed the concept; None where the twin was not asked
    steps     that the search took
    variant   which of an attack's several ways it is
    """

    text: str
    negative: str
    safe: str | None
    fooled: bool | None
    steps: int
    variant: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """A twin, the judge of its pictures, and how they are sampled."""

    twin: Twin
    judge: Judge
    options: RunOptions = RunOptions()

    def run(self, text: str, seed: int, negative: str = "", guarded: bool = True) -> Trajectory:
        """One run of the twin."""
        embeds = self.twin.embeds([text, negative])
        return sample(self.twin, embeds[:1], [seed], self.options, embeds[1:], guarded)

    def fooled(self, text: str, seed: int, negative: str = "") -> bool:
        """Whether the guarded picture leaves and shows the concept."""
        return self.shows(self.run(text, seed, negative))[0]

    def shows(self, trajectory: Trajectory) -> list[bool]:
        """Of each picture of a run, whether it leaves and shows the concept."""
        withheld = [False] * len(trajectory.final) if trajectory.withheld is None else trajectory.withheld.tolist()
        pictures = self.twin.pictures(trajectory.final)
        return [not held and bool(self.judge(picture)) for held, picture in zip(withheld, pictures, strict=True)]
