"""Corpora, bags and batches."""
