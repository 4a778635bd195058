"""Speed and memory, measured: `--mode bench`."""
