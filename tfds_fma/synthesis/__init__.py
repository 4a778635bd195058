"""Synthetic music for the demo corpus."""
