"""The `saferedir` command. Imports only what the chosen subcommand needs."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "build": "export.build_engines",
    "inspect": "engines.summary",
    "doctor": "engines.doctor",
    "verify": "engines.store.verification",
    "optimize": "engines.optimize",
    "generate": "runtime.generate",
}
USAGE = f"usage: saferedir {{{','.join(COMMANDS)}}} ...   (saferedir build --help, and so on)"


def main() -> int:
    """Run a subcommand with the rest of the command line; exit status 2 for an unknown one."""
    command, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command in COMMANDS:
        return import_module(COMMANDS[command]).main(rest)
    help_wanted = command in ("-h", "--help")
    print(USAGE, file=sys.stdout if help_wanted else sys.stderr)
    return 0 if help_wanted else 2


if __name__ == "__main__":
    sys.exit(main())
