"""Adapters for frameworks of voice agents. Each is an extra: `pipecat`, `livekit`."""
