#!/usr/bin/env bash
# Build the wheel and the sdist, install each into an empty environment, and make a video with it.
#
#     tools/smoke_test.sh PYTHON    (one with hatchling, as that of `make test`)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$(realpath -s "$python")
"$python" -m hatchling build -d "$work/dist"
"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

smoke() { # what was installed makes a video, away from the sources
	cd "$work"
	"$work/venv/bin/talkingface" --version
	"$work/venv/bin/talkingface" generate "$root/examples/man.jpg" "$root/tests/fixtures/sentence.wav" \
		-o "$work/video.mp4" --overwrite
	"$work/venv/bin/python" -c 'import talkingface; print(talkingface.load("cran").tag)'
	cd "$root"
}

pip install -c constraints.txt "$work"/dist/*.whl
smoke
pip install --no-deps --force-reinstall "$work"/dist/*.tar.gz
smoke
du -sh "$work"/dist/*
