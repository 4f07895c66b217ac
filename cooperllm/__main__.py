"""`python -m cooperllm` is the `cooperllm` command."""

import sys

from cooperllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
