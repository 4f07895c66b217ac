"""`python -m cooperllm` is the `cooperllm` command."""

import sys

from cooperllm.cli import main
from cooperllm.lifeline import hold_on

if __name__ == "__main__":
    hold_on()
    sys.exit(main())
