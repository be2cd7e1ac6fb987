"""The history of the ledger's tables, one revision per file in `versions`."""
