"""`python -m saferedir` is `saferedir`."""

import sys

from saferedir.cli import main

sys.exit(main())
