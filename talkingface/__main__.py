"""`python -m talkingface` is the `talkingface` command."""

from talkingface.cli import main

if __name__ == "__main__":
    main()
