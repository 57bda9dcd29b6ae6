"""One NVIDIA GPU through cuda-python: memory, streams, graphs, compiled kernels."""
