"""What the guard costs, and how we compare; what building costs. Entry: `python benchmarks/latency.py`."""

import engines  # noqa: F401  before ONNX Runtime, whose reports to its maker it switches off
