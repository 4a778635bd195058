"""From an audio file to a stored clip."""
