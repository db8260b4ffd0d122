"""Corpora to shards, and shards to batches."""
