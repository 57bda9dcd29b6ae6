"""Weights to ONNX to engines. Entry: `saferedir build`."""
