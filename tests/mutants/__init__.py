"""A mutation run: small mistakes are put into the money's code, one at a time, and a test must see each."""
