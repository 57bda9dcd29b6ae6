"""Packages, extras and the console script. Exact pins are in constraints.txt and bind export and the tests only."""

from setuptools import find_packages, setup

CHECKS = ["pytest>=8", "ruff>=0.6", "mypy>=1.10"]
ONNXRUNTIME = ["onnxruntime>=1.17"]
EXPORT = [
    *ONNXRUNTIME,
    "torch>=2.6",
    "diffusers>=0.33",
    "transformers>=4.48,<5",
    "onnx>=1.17",
    "safetensors>=0.4",
    "accelerate>=1",
    "tqdm>=4.60",
    "huggingface_hub>=0.26",
]
LINUX = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
CUDA = ["cuda-python>=12.6"]
RTX = [f"tensorrt_rtx_cu13_{part}>=1.7{LINUX}" for part in ("bindings", "libs")]
LEAN = [f"tensorrt_lean_cu13_{part}>=10.1{LINUX}" for part in ("bindings", "libs")]
OPENVINO = ["openvino>=2025.0"]
BENCHMARKS = [*EXPORT, "matplotlib>=3.8", "scipy>=1.10"]

setup(
    name="saferedir",
    version="0.1.0",
    description="Deploys SafeRedir: guarded Stable Diffusion on inference engines",
    python_requires=">=3.10",
    packages=find_packages(include=["saferedir*", "engines*", "export*", "runtime*", "demo*"]),
    install_requires=["numpy>=1.23", "tokenizers>=0.19", "Pillow>=9.4"],
    extras_require={
        "onnxruntime": ONNXRUNTIME,
        "openvino": OPENVINO,
        "export": EXPORT,
        "cuda": CUDA,
        "tensorrt-rtx": CUDA + RTX,
        "tensorrt-lean": CUDA + LEAN,
        "benchmarks": BENCHMARKS,
        "peers": ["optimum-onnx>=0.1"],
        "test": [*BENCHMARKS, "jsonschema>=4.20", *CHECKS, *OPENVINO, *CUDA, *RTX, *LEAN],
    },
    entry_points={"console_scripts": ["saferedir=saferedir.cli:main"]},
)
