"""Corpora, media files, servers and models that several test files share."""
