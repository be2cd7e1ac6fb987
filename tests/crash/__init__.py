"""Kills at every point between two durable steps, found in the code."""
