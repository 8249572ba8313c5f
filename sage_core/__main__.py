"""`python -m sage_core` is `sage-erase`."""

import sys

from .cli import console

sys.exit(console())
