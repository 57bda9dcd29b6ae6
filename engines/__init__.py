"""What an engine is: networks, backends and the store of built engines. Needs numpy and one backend only."""

__version__ = "0.2.0"
