"""`python -m sage_core` is `sage-erase`."""

import sys

from .cli.main import console

sys.exit(console())
