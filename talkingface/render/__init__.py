"""Draw a face that moves: the picture itself, bent along its mesh, with a mouth that opens."""
