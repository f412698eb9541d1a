"""`python -m theory_checks`: the same as `kpoison verify`."""

import sys

from kpoison.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
