"""Values and rules that know no I/O: money, the ledger, prices, refusals."""
