"""Dub videos: the mouth of a person in a video follows another recording."""
