"""Published methods that the generators are compared with, and the still picture."""
