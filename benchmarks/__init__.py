"""One file a claim. Each prints its table, writes JSON with --json FILE and has a --quick mode."""
