"""`python -m talkingface.cli` is the `talkingface` command."""

from talkingface.cli import main

main()
