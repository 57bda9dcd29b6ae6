"""What the guard costs: per network, per run, against peers and against the machine's floor.

`python benchmarks/latency.py` writes benchmarks/results/latency-<model>.json, .csv and plots; benchmarks/README.md explains.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

from benchmarks.suite import document as report  # noqa: E402
from benchmarks.suite import page, plots  # noqa: E402
from benchmarks.suite.locate import locate  # noqa: E402
from benchmarks.suite.runner import Suite  # noqa: E402
from benchmarks.suite.settings import parser, peer_names, settings_for  # noqa: E402
from engines.errors import SafeRedirError  # noqa: E402
from engines.manifest import Manifest  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 when runs that were compared did not do the same work; 2 with one line on standard error."""
    arguments = parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    arguments.output.mkdir(parents=True, exist_ok=True)  # before anything is measured that could not be written
    try:
        target = locate(arguments.model, arguments.redirector)
        if arguments.name is not None:
            target = dataclasses.replace(target, name=arguments.name)
        geometry = Manifest.read(target.engine_dir)[0].geometry
        settings = settings_for(arguments, geometry)
        workload = settings.workload(arguments, geometry)
        command = " ".join(["python benchmarks/latency.py", *(repr(part) if " " in part else part for part in given)])
        peers = peer_names(arguments), dict(arguments.peer_python)
        document, rows = Suite(target, settings, workload, arguments.grid or arguments.quick, *peers, command).run()
    except SafeRedirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.table(document))
    for path in (*report.write(document, rows, arguments.output), *plots.draw(document, arguments.output)):
        print(f"wrote {path.name}")
    if arguments.output.resolve() == page.RESULTS:
        page.update()
    passed = all(check["passed"] for check in document["checks"]) and not any(cell["failed_checks"] for cell in document["grid"])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
