"""`cooperllm simulate`: the real service and real device processes on one machine, and what came of it."""
