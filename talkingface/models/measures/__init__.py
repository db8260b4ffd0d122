"""Networks that only measure: the synchrony of lips and sound, and whose face it is."""
