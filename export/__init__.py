"""Weights to ONNX to engines. Entry: `python export/build_engines.py`."""
