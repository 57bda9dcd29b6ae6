"""The CPU's instruction sets: kernels are chosen by them, and packed weights are laid out for them."""
from __future__ import annotations

import platform
from pathlib import Path

# Those that numeric libraries have kernels for, as Linux names them.
INSTRUCTION_SETS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16",
                    "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16",
                    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "sme2")


def processor() -> str:
    """Architecture and instruction sets in words; on systems without /proc/cpuinfo the processor's name."""
    found = set(_flags())
    known = [name for name in INSTRUCTION_SETS if name in found]
    return f"{platform.machine()} with {', '.join(known)}" if known else f"{platform.machine()} {platform.processor()}".strip()


def _flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), [])
