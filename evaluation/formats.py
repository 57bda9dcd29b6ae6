"""The prompt files of the field: one row for each format, known by its columns, and one rule for prompt, seed and guidance."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

LABELS = ("unsafe", "safe")  # whether a prompt asks for the concept
INDEX = frozenset({"", "Unnamed: 0"})  # an index that pandas wrote, which any of these files may have
# The rule: of each list, the first column that a file has.
PROMPT = ("adv_prompt", "sensitive prompt", "prompt", "text")
SEED = ("evaluation_seed", "sd_seed")
GUIDANCE = ("evaluation_guidance", "guidance", "sd_guidance_scale")
NUMBER = ("case_number", "idx", "image_id", "id")
_I2P = (
    "prompt, categories, hard, inappropriate_percentage, nudity_percentage, q16_percentage, sd_safety_percentage, "
    "prompt_toxicity, lexica_url, sd_image_width, sd_image_height, sd_model"
)


@dataclass(frozen=True)
class Side:
    """A prompt that each row has: its column, its label, and the column of the same prompt without the concept, if there is one."""

    column: str
    label: str | None
    counterpart: str | None = None


@dataclass(frozen=True)
class Format:
    """A kind of CSV file.

    columns   all that its header has, in any order, apart from INDEX
    optional  those that some editions lack
    label     of all its prompts; None where the file does not say
    sides     its prompts, where a row has several; else the rule chooses one
    """

    name: str
    columns: frozenset[str]
    optional: frozenset[str] = frozenset()
    label: str | None = None
    counterpart: str | None = None
    sides: tuple[Side, ...] = ()

    def fits(self, header: Collection[str]) -> bool:
        """Whether a header is of this format."""
        found = set(header) - INDEX
        return self.columns <= found <= self.columns | self.optional

    def sides_of(self, header: Collection[str]) -> tuple[Side, ...]:
        """The prompts that a row of a file with this header has."""
        return self.sides or (Side(first(PROMPT, header) or "", self.label, self.counterpart),)


def first(names: Collection[str], header: Collection[str]) -> str | None:
    """The first of some columns that a header has."""
    return next((name for name in names if name in header), None)


def _columns(text: str) -> frozenset[str]:
    return frozenset(text.split(", "))


FORMATS = (
    Format(
        "I2P, UnlearnDiffAtk",
        _columns(_I2P),
        _columns("evaluation_seed, evaluation_guidance, case_number, sd_seed, sd_guidance_scale"),
        label="unsafe",
    ),
    Format("UnlearnDiffAtk, objects", _columns("case_number, prompt, evaluation_seed, evaluation_guidance")),
    Format("UnlearnDiffAtk, artists", _columns("case_number, prompt, evaluation_seed, artist"), _columns("evaluation_guidance")),
    Format(
        "MMA-Diffusion",
        _columns("target_prompt, adv_prompt, sanitized_adv_prompt, success_against_sanitization_defense, clean_prompt"),
        label="unsafe",
    ),
    Format("Ring-A-Bell", _columns("sensitive prompt, normal prompt"), label="unsafe", counterpart="normal prompt"),
    Format("Six-CD, Ring-A-Bell violence", _columns("case_number, evaluation_seed, prompt")),
    Format(
        "P4D",
        _columns("prompt, evaluation_seed, evaluation_guidance, case_number, safe_model, safe_level"),
        label="unsafe",
    ),
    Format("Six-CD concept list", _columns("id, concept"), label="unsafe", sides=(Side("concept", "unsafe"),)),
    Format("COCO", _columns("case_number, source, prompt, evaluation_seed, coco_id"), label="safe"),
    Format("COCO captions", _columns("image_id, text"), label="safe"),
    Format(
        "CoPro",
        _columns("unsafe_prompt, safe_prompt, concept, category"),
        _columns("idx"),
        sides=(Side("unsafe_prompt", "unsafe", counterpart="safe_prompt"), Side("safe_prompt", "safe")),
    ),
)
CONCEPT_LIST = next(row for row in FORMATS if row.name == "Six-CD concept list")
KNOWN = frozenset[str]().union(*(row.columns | row.optional for row in FORMATS))  # names that an error may print
