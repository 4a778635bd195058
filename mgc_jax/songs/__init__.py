"""Audio files of one's own: which there are, their bags, and what a trained model makes of them."""
