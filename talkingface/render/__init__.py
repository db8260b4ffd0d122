"""Draw frames: the portrait warped along its mesh, and the inside of its mouth."""
