"""Client libraries that people use, unmodified, as buyers."""
