"""``python -m fastgrad``: the same as the console script."""

import sys

from fastgrad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
