"""Daemons that speak the real protocols: two Lightning nodes, a chat backend, and a wallet that pays."""
