"""The SafeRedir method in PyTorch: heads, redirection rule, checkpoints and training; and `cli`, the commands."""

from engines import __version__

__all__ = ["__version__"]
