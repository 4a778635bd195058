"""Encoders, pooling, and the classifier that joins them."""
