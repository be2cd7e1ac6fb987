"""`make bench`: how fast the paid call is, as ratios to a plain ASGI server, in one run."""
