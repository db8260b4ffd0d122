"""Pages and programs' interfaces over the network: `serve` (generate) and `study` (vote)."""
