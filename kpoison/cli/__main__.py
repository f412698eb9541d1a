"""`python -m kpoison.cli`."""

import sys

from kpoison.cli import main

sys.exit(main())
