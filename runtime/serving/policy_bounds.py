"""How far a request may move the guard's numbers from those that engines were built with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from engines.errors import InputError
from engines.policy import OFF, SHIFTS, Off, Policy
from engines.printable import shown
from runtime.serving.errors import ForbiddenError

RANGES = ("alpha_scale", "replace_steps")  # numbers of which neither more nor less is always stricter


@dataclass(frozen=True, kw_only=True)
class PolicyBounds:
    """Of one concept. What is None is bounded by the engines' own policy.

    threshold, final_threshold  the largest: a lower one is stricter
    shift          "conditional" is stricter than "both", for a negative prompt cannot undo it
    alpha_scale    least and most
    replace_steps  least and most
    may_be_off     whether a request may switch the concept off

    Raises:
        InputError: a number that no policy can have, or a range that is none.
    """

    threshold: float | None = None
    final_threshold: float | None = None
    shift: str | None = None
    alpha_scale: list[float] | None = None
    replace_steps: list[int] | None = None
    may_be_off: bool = False

    def __post_init__(self) -> None:
        for name in RANGES:
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or value[0] > value[1]):
                raise InputError(f"{name}: expected [least, most], found {shown(value)}")
        given: dict[str, list[Any]] = {name: [getattr(self, name)] for name in ("threshold", "final_threshold", "shift")}
        given |= {name: getattr(self, name) or [] for name in RANGES}
        for name, values in given.items():
            for value in values:
                if value is not None:
                    Policy(**{name: value})

    def default(self, built: Policy) -> Policy:
        """What a request gets that says nothing: as built, or stricter where the bounds are."""
        policy = replace(
            built, threshold=min(built.threshold, self._threshold(built)), shift=stricter(built.shift, self._shift(built))
        )
        if policy.threshold_at_end > (most := self._final_threshold(built)):
            policy = replace(policy, final_threshold=most)
        for name in RANGES:
            least, most = self._range(name, built)
            policy = replace(policy, **{name: min(max(getattr(built, name), least), most)})
        return policy

    def offer(self, built: Policy) -> dict[str, Any]:
        """The bounds, with the engines' own where there are no others."""
        ranges = {name: list(self._range(name, built)) for name in RANGES}
        thresholds = {"threshold": self._threshold(built), "final_threshold": self._final_threshold(built)}
        return {**thresholds, "shift": self._shift(built), **ranges, "may_be_off": self.may_be_off}

    def check(self, concept: str, asked: Policy | Off, built: Policy) -> None:
        """Raise ForbiddenError for a policy outside the bounds."""
        subject = f"policy of {shown(concept)}"
        if asked == OFF or not isinstance(asked, Policy):
            if not self.may_be_off:
                raise ForbiddenError(f"{subject}: expected a policy, found off, which this server does not allow")
            return
        thresholds = {
            "threshold": (asked.threshold, self._threshold(built)),
            "final_threshold": (asked.threshold_at_end, self._final_threshold(built)),
        }
        for name, (found, most) in thresholds.items():
            if found > most:
                raise ForbiddenError(f"{subject}: {name}: expected at most {most}, found {found}")
        if stricter(asked.shift, weakest := self._shift(built)) != asked.shift:
            raise ForbiddenError(f"{subject}: shift: expected {weakest}, found {asked.shift}")
        for name in RANGES:
            least, most = self._range(name, built)
            if not least <= (value := getattr(asked, name)) <= most:
                raise ForbiddenError(f"{subject}: {name}: expected {least} to {most}, found {value}")

    def _threshold(self, built: Policy) -> float:
        return built.threshold if self.threshold is None else self.threshold

    def _final_threshold(self, built: Policy) -> float:
        """A policy that has none of its own follows its threshold, and so does its bound."""
        own = built.final_threshold if self.final_threshold is None else self.final_threshold
        return self._threshold(built) if own is None else own

    def _shift(self, built: Policy) -> str:
        return self.shift or built.shift

    def _range(self, name: str, built: Policy) -> tuple[float, float]:
        least, most = getattr(self, name) or [getattr(built, name)] * 2
        return least, most


def stricter(one: str, other: str) -> str:
    """The stricter of two shifts."""
    return max(one, other, key=SHIFTS.index)
