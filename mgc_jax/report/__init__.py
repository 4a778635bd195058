"""The HTML pages of runs and comparisons; reads a run's folder, never a corpus."""
