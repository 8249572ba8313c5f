"""`python -m sage_core` is `sage-erase`."""

import sys

from .cli import main

sys.exit(main())
