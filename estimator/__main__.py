"""Lets `python -m estimator` run the command line."""

import sys

from estimator.command_line import main

if __name__ == "__main__":
    sys.exit(main())
