"""What FMA publishes: archives, tables, audio files, arrays."""
