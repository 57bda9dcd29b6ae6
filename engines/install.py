"""How to install what is missing, for error messages."""

from __future__ import annotations


def install(extra: str) -> str:
    """The pip command that brings an extra of this package (pyproject.toml lists them)."""
    return f'pip install "saferedir[{extra}]"'
