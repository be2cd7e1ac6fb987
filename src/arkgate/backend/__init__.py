"""The chat backend over HTTP."""
