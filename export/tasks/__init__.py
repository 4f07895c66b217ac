"""Tasks: what the last segment computes from the hidden states. One file a task."""
