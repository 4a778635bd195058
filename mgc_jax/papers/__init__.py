"""What the papers say, once each: systems, settings, printed numbers."""

from mgc_jax.papers import fma, gtzan, matt, matt_tables, ubc, ubc_tables

SYSTEMS = (*ubc.SYSTEMS, *gtzan.SYSTEMS, *fma.SYSTEMS, *matt.SYSTEMS)
PAPERS = {"matt": matt.PAPER, "ubc": ubc.PAPER}  # those with tables
NOTES = matt_tables.NOTES | ubc_tables.NOTES
