"""What a clip is stored as: log-mel spectrogram, audio, feature vector."""
