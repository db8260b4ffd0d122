"""`talkingface serve` whose decoders fail at files whose last bytes say so (`faulty_decoder`).

Arguments: the seconds of a processor that a decoder may take, then those of `talkingface serve`.
"""

from __future__ import annotations

import sys

from talkingface import decoding
from talkingface.cli import main
from talkingface.web import service


def run() -> None:
    seconds, *options = sys.argv[1:]
    decoding._MODULE = "helpers.faulty_decoder"
    service._DECODING_SECONDS = int(seconds)
    main(["serve", *options])


if __name__ == "__main__":
    run()
