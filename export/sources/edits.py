"""What is laid over a component's own weights when it is loaded: files of replaced weights, and LoRAs, in this order.

An edit is part of the recipe of the components that it touches, and of no other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engines.errors import InputError
from engines.git_lfs import lfs_problem
from engines.printable import shown
from export.sources.lora_names import layers_of


class Edit(Protocol):
    """A file that changes components. `kind` is the option that gives it."""

    @property
    def kind(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def touches(self, component: str) -> bool:
        """Whether it changes this component. Raises InputError for a file that it cannot be."""
        ...

    def settings(self) -> dict[str, Any]:
        """What decides the change beside the file."""
        ...

    def apply(self, module: Any, component: str, say: Callable[[str], None]) -> None:
        """Change the module, in place, and say what was changed. Raises InputError for a file that does not fit it."""
        ...


@dataclass(frozen=True)
class Lora:
    """A LoRA in kohya's, diffusers' or PEFT's layout, merged with a scale."""

    path: Path
    scale: float = 1.0
    kind = "lora"

    @classmethod
    def parse(cls, text: str) -> Lora:
        """FILE or FILE:SCALE. Raises InputError for a scale that is no finite number."""
        text = os.path.expanduser(text)
        name, colon, scale = text.rpartition(":")
        try:
            number = float(scale) if colon and not Path(text).is_file() else None
        except ValueError:
            if Path(name).is_file():
                raise InputError(f"--lora: expected a finite number as scale, found {shown(scale)}") from None
            number = None  # a colon of the path's own
        if number is None:
            return cls(Path(text))
        if not math.isfinite(number):
            raise InputError(f"--lora: expected a finite number as scale, found {shown(scale)}")
        return cls(Path(name), number)

    def touches(self, component: str) -> bool:
        return component in layers_of(self.path, tensor_names(self.path))

    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def apply(self, module: Any, component: str, say: Callable[[str], None]) -> None:
        from export.sources.lora import merge_lora

        say(f"merged into {merge_lora(module, component, self.path, self.scale)} layers of {component}, scale {self.scale:g}")


@dataclass(frozen=True)
class Replacement:
    """Weights that take the place of a component's, all or some; an unlearned model's, say."""

    path: Path
    component: str

    @property
    def kind(self) -> str:
        return f"{self.component.replace('_', '-')}-weights"

    def touches(self, component: str) -> bool:
        return component == self.component

    def settings(self) -> dict[str, Any]:
        """How many tensors it has, each of which takes the place of one."""
        from export.sources.replaced import read_replacement

        return {"tensors": len(read_replacement(self.path, self.component))}

    def apply(self, module: Any, component: str, say: Callable[[str], None]) -> None:
        from export.sources.replaced import replace_weights

        replace_weights(module, component, self.path, say)


def edits_of(edits: Sequence[Edit], component: str | None) -> tuple[Edit, ...]:
    """Those that touch a component."""
    return tuple(edit for edit in edits if component is not None and edit.touches(component))


def source_names(edits: Sequence[Edit]) -> dict[str, Edit]:
    """The name of each edit's file among the sources of a manifest."""
    return {f"{edit.kind}/{number}/{edit.path.name}": edit for number, edit in enumerate(edits, 1)}


def tensor_names(path: Path) -> list[str]:
    """Names of a file's tensors. Of .safetensors the header alone is read. Raises InputError where it cannot be."""
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights, found no such file")
    if path.suffix != ".safetensors":
        from saferedir.checkpoint import read_tensors

        return list(read_tensors(path))
    if (problem := lfs_problem(path)) is not None:
        raise InputError(problem)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as .safetensors weights: {error}") from None
