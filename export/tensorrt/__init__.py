"""ONNX files to TensorRT and TensorRT-RTX plans."""
