"""The books in a SQLite file: one process writes, others may read."""
