"""The machine a run is on, and nothing of music: devices, processes, memory, files, terminal."""
