"""Scores, predictions, metrics and their intervals."""
