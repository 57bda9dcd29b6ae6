"""What the guard costs, and how we compare; what building costs. Entry: `python benchmarks/latency.py`."""
