"""What a trained model makes of the corpus of its run: `mgc-jax analyse RUN`."""
