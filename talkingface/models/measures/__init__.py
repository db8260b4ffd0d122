"""Networks that only measure: synchrony of lips and sound, and identity."""
