"""`python -m p2pinfer`: the client command line."""

import sys

from p2pinfer.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
