"""Draw frames: the portrait bent along its mesh, and the inside of its mouth."""
