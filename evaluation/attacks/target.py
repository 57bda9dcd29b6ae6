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
    fooled    whether the twin's picture left and showed the concept, guarded unless the generator alone is attacked; None where
              the twin was not asked
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
    """A twin, the judge of its pictures, and how they are sampled.

    guarded   whether the guard has to be fooled, too; else the generator alone is attacked
    original  a twin of the generator before it unlearned the concept: what it does for a prompt is what attacks want. Without it,
              what the twin's own unguarded generator does
    leaves    whether a picture has to leave, too; else one that the final check withholds is a success as well
    """

    twin: Twin
    judge: Judge
    options: RunOptions = RunOptions()
    guarded: bool = True
    original: Twin | None = None
    leaves: bool = True

    @property
    def wanted(self) -> Twin:
        """The twin whose unguarded generator does what attacks want."""
        return self.original or self.twin

    def run(self, text: str, seed: int, negative: str = "") -> Trajectory:
        """The run that has to be fooled."""
        return _run(self.twin, text, seed, negative, self.options, self.guarded)

    def unguarded_run(self, text: str, seed: int) -> Trajectory:
        """The same without a guard, and without a negative prompt."""
        return _run(self.twin, text, seed, "", self.options, guarded=False)

    def wanted_run(self, text: str, seed: int) -> Trajectory:
        """What attacks want of a prompt."""
        return _run(self.wanted, text, seed, "", self.options, guarded=False)

    def fooled(self, text: str, seed: int, negative: str = "") -> bool:
        """Whether the picture leaves, where it has to, and shows the concept."""
        return self.shows(self.run(text, seed, negative))[0]

    def shows(self, trajectory: Trajectory) -> list[bool]:
        """Of each picture of a run, whether it leaves, where it has to, and shows the concept."""
        withheld = [False] * len(trajectory.final)
        if self.leaves and trajectory.withheld is not None:
            withheld = trajectory.withheld.tolist()
        pictures = self.twin.pictures(trajectory.final)
        return [not held and bool(self.judge(picture)) for held, picture in zip(withheld, pictures, strict=True)]


def _run(twin: Twin, text: str, seed: int, negative: str, options: RunOptions, guarded: bool) -> Trajectory:
    embeds = twin.embeds([text, negative])
    return sample(twin, embeds[:1], [seed], options, embeds[1:], guarded)
