"""Prompt to image on built engines, guarded at every step. Needs numpy, tokenizers, Pillow and one backend."""

from engines import __version__
from runtime.pipeline import GuardedPipeline
from runtime.report import Result, save_png
from runtime.request import Request

__all__ = ["GuardedPipeline", "Request", "Result", "__version__", "save_png"]
