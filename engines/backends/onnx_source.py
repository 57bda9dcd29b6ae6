"""What ONNX Runtime is given to load: bytes that have been read already, wherever it can take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.backends.contract import Contents

FOLDER = "session.model_external_initializers_file_folder_path"
IN_MEMORY = "add_external_initializers_from_files_in_memory"  # of SessionOptions; early releases lack it


def onnx_source(path: Path, contents: Contents | None, options: Any) -> str | bytes:
    """The first argument of an InferenceSession; `options`, its SessionOptions, get what belongs to it.

    Weights that have been read are copied by ONNX Runtime; others are mapped from the files beside `path`. The bytes must be
    kept until the session is made.
    """
    contents = contents or {}
    model, weights = contents.get(path.name), {name: content for name, content in contents.items() if name != path.name}
    if not isinstance(model, bytes) or (weights and not hasattr(options, IN_MEMORY)):
        return str(path)
    if read := {name: content for name, content in weights.items() if content is not None}:
        getattr(options, IN_MEMORY)(list(read), list(read.values()), [len(content) for content in read.values()])
    if len(read) < len(weights):
        options.add_session_config_entry(FOLDER, str(path.parent.resolve()))
    return model
