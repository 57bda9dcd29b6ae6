"""What an engine is: networks, backends and the store of built engines. Needs numpy and one backend only."""

import os

__version__ = "0.2.0"

# From 1.29 on, ONNX Runtime's official builds report to their maker from the moment of their import, and keep an identifier
# under ~/.cache. Only this variable stops both, and only before the import, so it is set before any module of ours can import it.
# One who has set it, to 0 say, is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
