"""``python -m pvmmio_uc`` is ``pvmmio``."""

import sys

from .cli import main

sys.exit(main())
