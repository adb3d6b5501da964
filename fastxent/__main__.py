"""``python -m fastxent``: the command line."""

import sys

from fastxent.cli.main import main

sys.exit(main())
