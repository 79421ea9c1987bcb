"""`python -m crossproof` is `crossproof`."""

import sys

from crossproof.cli import main

sys.exit(main())
