"""What `benchmarks/latency.py` measures: defaults by the size of the model, changed by options."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.catalog import ENVIRONMENTS, OURS, PEERS
from benchmarks.suite.grid import Grid
from benchmarks.suite.locate import NAMED
from benchmarks.suite.sampling import Workload
from engines.geometry import Geometry
from engines.install import install
from runtime.samplers.registry import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Settings:
    """How much to measure. `extrapolate_to` is a step count whose time is computed from the measured steps, or None."""

    num_inference_steps: int
    rounds: int
    cold_starts: int
    peer_rounds: int
    grid: Grid
    extrapolate_to: int | None = None
    warm_up_rounds: int = 1
    peer_steps: int | None = None  # of runs against peers; None for num_inference_steps

    def workload(self, arguments: argparse.Namespace, geometry: Geometry) -> Workload:
        """The main comparison's, completed with the model's own sizes."""
        return Workload(
            arguments.batch_size,
            self.num_inference_steps,
            arguments.height or geometry.default_height,
            arguments.width or geometry.default_width,
            arguments.scheduler,
        )


SMALL = Settings(50, 20, 5, 5, Grid((1, 2, 4, 8), (32, 64, 96, 128), (10, 25, 50, 100), 3))
FULL = Settings(2, 3, 1, 1, Grid((1,), (256, 384, 512), (2,), 1), extrapolate_to=50)  # a UNet call takes seconds
SMALL_QUICK = Settings(10, 6, 1, 2, Grid((1, 2), (32, 64), (5, 10), 2))
FULL_QUICK = Settings(1, 1, 0, 1, Grid((1,), (256,), (1,), 1), extrapolate_to=50)
SMALL_SIDE = 128  # pixels; a model of this size or less is measured as the demo is


def file_name(text: str) -> str:
    """Text that can be a part of a file's name; raises ArgumentTypeError."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, '_', '.' and '-', found {text!r}")
    return text


def environment(text: str) -> tuple[str, str]:
    """A name of ENVIRONMENTS and its interpreter; raises ArgumentTypeError."""
    name, _, python = text.partition("=")
    if name not in ENVIRONMENTS or not python:
        raise argparse.ArgumentTypeError(f"expected ENVIRONMENT=PYTHON with one of {', '.join(ENVIRONMENTS)}, found {text!r}")
    return name, python


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(prog="latency.py", description="What the guard costs.", allow_abbrev=False)
    result.add_argument("--model", default="demo", help=f"{', '.join(NAMED)}, or a folder of engines (default: %(default)s)")
    result.add_argument("--redirector", type=Path, help="checkpoint of a folder's guard, for the eager peer")
    result.add_argument("--name", type=file_name, help="of the figures' files, latency-NAME (default: the model's)")
    result.add_argument("--quick", action="store_true", help="a short run of everything: under two minutes for the demo")
    result.add_argument("--num-inference-steps", type=int, help="of every run (default: 50; above 128 pixels 2)")
    result.add_argument("--rounds", type=int, help="each mode runs once a round (default: 20; above 128 pixels 3)")
    result.add_argument("--warm-up-rounds", type=int, help="not kept (default: 1); 0 for runs of many minutes")
    result.add_argument("--batch-size", type=int, default=1, help="images of a run (default: %(default)s)")
    result.add_argument("--height", type=int, help="pixels (default: the model's)")
    result.add_argument("--width", type=int, help="pixels (default: the model's)")
    result.add_argument("--scheduler", default="ddim", choices=SAMPLERS, help="of every run (default: %(default)s)")
    result.add_argument("--extrapolate-to", type=int, help="steps to compute a time for (default: none; above 128 pixels 50)")
    result.add_argument("--cold-starts", type=int, help="of each mode, in processes of their own")
    grid = result.add_argument_group("grid", "every combination of batch size, picture size and steps")
    grid.add_argument("--grid", action="store_true", help="measure it, with the model's default values where none are given")
    grid.add_argument("--grid-batch-sizes", type=int, nargs="+", help="images of a run")
    grid.add_argument("--grid-sizes", type=int, nargs="+", help="sides of square pictures")
    grid.add_argument("--grid-steps", type=int, nargs="+", help="sampler steps")
    grid.add_argument("--grid-rounds", type=int, help="each combination runs once a round")
    peers = result.add_argument_group("peers", f"need {install('benchmarks,peers')}")
    names = [name for name in PEERS if name != OURS]
    peers.add_argument("--peers", nargs="*", choices=names, metavar="PEER", help=f"all without a name, of: {'; '.join(names)}")
    peers.add_argument(
        "--peer-python",
        type=environment,
        action="append",
        default=[],
        metavar="ENVIRONMENT=PYTHON",
        help=f"interpreter of the environment of peers that need another one than this: {', '.join(ENVIRONMENTS)}",
    )
    peers.add_argument("--peer-rounds", type=int, help="four runs each, two of the peer and two of ours")
    peers.add_argument("--peer-steps", type=int, help="of every run against peers (default: --num-inference-steps)")
    result.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder (default: %(default)s)")
    return result


def settings_for(arguments: argparse.Namespace, geometry: Geometry) -> Settings:
    """The defaults for a model of this size with what was asked for in their place."""
    small = max(geometry.default_height, geometry.default_width) <= SMALL_SIDE
    chosen = (SMALL_QUICK if small else FULL_QUICK) if arguments.quick else SMALL if small else FULL
    given = {
        name: value
        for name in ("batch_sizes", "sizes", "steps", "rounds")
        if (value := getattr(arguments, f"grid_{name}")) is not None
    }
    changed = {
        name: value
        for name in (
            "num_inference_steps",
            "rounds",
            "cold_starts",
            "peer_rounds",
            "extrapolate_to",
            "warm_up_rounds",
            "peer_steps",
        )
        if (value := getattr(arguments, name)) is not None
    }
    return replace(chosen, grid=replace(chosen.grid, **given), **changed)


def peer_names(arguments: argparse.Namespace) -> list[str]:
    """Peers to meet: none without --peers, all for --peers alone."""
    if arguments.peers is None:
        return []
    return arguments.peers or [name for name in PEERS if name != OURS]
