"""Audio files of one's own: their windows, bags, genres and embeddings."""
