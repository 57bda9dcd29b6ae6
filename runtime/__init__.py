"""Prompt to image on built engines, guarded at every step. Needs numpy, tokenizers, Pillow and one backend."""

from engines import __version__
from engines.errors import (
    BackendError,
    CanaryError,
    DigestError,
    EngineError,
    InputError,
    ManifestError,
    NonFiniteError,
    ParityError,
    SafeRedirError,
    SignatureError,
)
from engines.policy import Policy
from engines.prompts import TruncationWarning
from runtime.credentials import Credentials, FoundCredentials, read_credentials
from runtime.pipeline import GuardedPipeline
from runtime.png import read_png, save_png
from runtime.report import ComparisonReport, GuardReport, ImageReport, Result, Token
from runtime.request import Request
from runtime.samplers.options import SchedulerError

__all__ = [
    "BackendError",
    "CanaryError",
    "ComparisonReport",
    "Credentials",
    "DigestError",
    "EngineError",
    "FoundCredentials",
    "GuardReport",
    "GuardedPipeline",
    "ImageReport",
    "InputError",
    "ManifestError",
    "NonFiniteError",
    "ParityError",
    "Policy",
    "Request",
    "Result",
    "SafeRedirError",
    "SchedulerError",
    "SignatureError",
    "Token",
    "TruncationWarning",
    "__version__",
    "read_credentials",
    "read_png",
    "save_png",
]
