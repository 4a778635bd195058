"""How clips lie on the disk: folders, shards, records."""
