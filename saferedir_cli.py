"""The `saferedir` command: `build` engines, `inspect` them, `generate` guarded images. Imports only what the chosen one needs."""
from __future__ import annotations

import sys

USAGE = "usage: saferedir {build,inspect,generate} ...   (saferedir build --help, and so on)"


def main() -> int:
    """Run a subcommand with the rest of the command line; exit status 2 for an unknown one."""
    command, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command == "build":
        from export.build_engines import main as run
    elif command == "inspect":
        from engines.summary import main as run
    elif command == "generate":
        from runtime.generate import main as run
    else:
        help_wanted = command in ("-h", "--help")
        print(USAGE, file=sys.stdout if help_wanted else sys.stderr)
        return 0 if help_wanted else 2
    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
