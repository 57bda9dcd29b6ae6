"""The model that a build is asked for: a diffusers folder, a single file or a hub id, with another autoencoder or its own."""

from __future__ import annotations

from pathlib import Path

from engines.errors import InputError
from export.sources.hub import download
from export.sources.model_folder import COMPONENTS, INDEX, STEMS, TOKENIZER_FILES, WEIGHTS, Source
from export.sources.single_file import SingleFile
from export.sources.swapped_vae import SwappedVae


def find_model(name: str, config: Path | None = None, vae: str | None = None) -> Source:
    """A folder, a single file, or a hub id, from the local cache or downloaded. `config` is a single file's, see there.

    `vae`, likewise a folder, a file or a hub id, takes the place of its autoencoder, see `export.sources.swapped_vae`.

    Raises:
        InputError: none of them is there, or it is not of the Stable Diffusion 1.x/2.x family; or `vae` cannot be used.
    """
    path = _local(name, "--model")
    if path is not None and path.is_file():
        source: Source = SingleFile(name, path, config)
    elif config is not None:
        found = "none" if path is None else "a folder"
        raise InputError(f"model {name!r}: expected a single file for --config, found {found}; folders have their own")
    else:
        source = Source(name, download(name, _patterns()) if path is None else path)
    if vae is not None:
        place = _local(vae, "--vae") or download(vae, ["config.json", *_weights()], "--vae")
        source = SwappedVae(name, source.folder, source, place)
    source.check()
    return source


def _local(name: str, option: str) -> Path | None:
    """The folder or file of that name; None for what may be a hub id."""
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # no such user, or no home
        path = Path(name)
    if path.exists():
        return path
    if path != Path(name):
        raise InputError(f"{option.removeprefix('--')} {name!r}: expected a diffusers folder, found no folder {path}")
    return None


def _patterns() -> list[str]:
    """The files of a hub repository that a build reads."""
    patterns = [INDEX, "*/config.json", "scheduler/*", *(f"tokenizer/{file}" for file in TOKENIZER_FILES)]
    return patterns + [f"{component}/{file}" for component in COMPONENTS for file in _weights()]


def _weights() -> list[str]:
    """Of one component."""
    return [file for file in WEIGHTS if "safetensors" in file] + [f"{stem}*-of-*.safetensors" for stem in STEMS]
