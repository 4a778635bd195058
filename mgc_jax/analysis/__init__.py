"""What a trained model makes of a corpus: embeddings, attention, a map, neighbours, comparison of models."""
