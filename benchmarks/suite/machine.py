"""What a figure was measured on: processor, clocks, memory, load, versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from engines.backends.processor import cpuinfo, processor

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARIES = (
    "numpy",
    "onnxruntime",
    "openvino",
    "tokenizers",
    "torch",
    "diffusers",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "matplotlib",
    "scipy",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_BLOCKTIME")


def describe() -> dict[str, Any]:
    """Everything that does not change while a benchmark runs. Holds no host name and no path."""
    clock = time.get_clock_info("perf_counter")
    return {
        "processor": cpuinfo("model name") or platform.processor() or platform.machine(),
        "architecture": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "frequency_governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock": {"name": "time.perf_counter_ns", "implementation": clock.implementation, "resolution_ns": clock.resolution * 1e9},
        "versions": _versions(),
        "thread_variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "commit": _commit(),
    }


def now() -> dict[str, Any]:
    """What changes: UTC time, load average of the last minute, clock of the first core in MHz (None where it is hidden)."""
    frequency = cpuinfo("cpu MHz")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": round(os.getloadavg()[0], 2),
        "mhz": float(frequency) if frequency else None,
    }


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    Linux's VmHWM starts anew with the program, unlike getrusage's, which a child inherits from its parent.
    """
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def resident_memory_bytes(process: int | None = None) -> int | None:
    """Resident memory of a process now, this one by default, mapped files included; None where the system does not say."""
    for line in (_read(f"/proc/{'self' if process is None else process}/status") or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The commit that is checked out, with "+" where tracked Python files differ from it; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py"], cwd=ROOT).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
