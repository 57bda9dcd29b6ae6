"""The CPU's instruction sets: kernels are chosen by them, and packed weights are laid out for them."""

from __future__ import annotations

import platform

# Those that numeric libraries have kernels for, as Linux names them.
INSTRUCTION_SETS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
    "sme2",
)


def processor() -> str:
    """Architecture and instruction sets in words; on systems without /proc/cpuinfo the processor's name."""
    flags = (cpuinfo("flags") or cpuinfo("Features") or "").split()
    known = [name for name in INSTRUCTION_SETS if name in flags]
    return f"{platform.machine()} with {', '.join(known)}" if known else f"{platform.machine()} {platform.processor()}".strip()


def cpuinfo(key: str) -> str | None:
    """The value of a key in /proc/cpuinfo, for the first processor; None where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # not read whole: it grows with the number of cores
            return next((value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), None)
    except OSError:
        return None
