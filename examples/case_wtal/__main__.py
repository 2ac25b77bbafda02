"""Entry point of `python -m examples.case_wtal`."""

import sys

from examples.case_wtal.cli import main

if __name__ == "__main__":
    sys.exit(main())
