"""Web pages and HTTP interfaces: `serve` generates videos, `study` collects votes."""
