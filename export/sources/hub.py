"""Models on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from engines.errors import InputError


def download(name: str, patterns: list[str], option: str = "--model") -> Path:
    """The folder of a hub repository, from the local cache or downloaded. Raises InputError where it cannot be had.

    `option` is where the user named it.
    """
    what = option.removeprefix("--")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith((".safetensors", ".ckpt", "/")):
        raise InputError(f"{what} {name!r}: no such folder or file, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # network, authentication and cache errors of several libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{what} {name!r}: no such folder or file, not in the local cache, and it cannot be downloaded: {reason}. "
            f"Pass a local diffusers folder to {option} or check the network"
        ) from None
