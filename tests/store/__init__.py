"""The ledger's tests, on real database files."""
