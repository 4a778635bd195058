"""A music collection of one's own: its songs, what is known of them, their splits, and which are there twice."""
