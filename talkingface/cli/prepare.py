"""Commands that turn recordings into shards, and inspect shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.controls import takes_report, takes_workers
from talkingface.cli.options import Overwrite, Reporter, Shards
from talkingface.errors import BadRequest
from talkingface.workers import Workers

if TYPE_CHECKING:
    from talkingface.data.report import Summary
    from talkingface.data.sources import Corpus

HELP = """Turn a corpus into training shards.

Run again, it goes on where it was stopped.

CORPUS is one of these, FOLDER its folder as it is published:

\b
  grid          GRID (Cooke et al. 2006): 34 speakers, six-word sentences
                <speaker>/<clip>.mpg, alignments/<speaker>/<clip>.align
  lombard-grid  Lombard GRID (Alghamdi et al. 2018): 54 speakers, plain and raised voices
                lombardgrid/{front,audio,alignment}/<s>_<l|p>_<clip>.{mov,wav,json}
  lrw           Lip Reading in the Wild (Chung and Zisserman 2016): 500 words, 29 frames each
                lipread_mp4/WORD/<train|val|test>/WORD_00001.mp4 and .txt
  voxceleb1     VoxCeleb1 (Nagrani et al. 2017): 1,251 identities; its video is one's own cut
                mp4/<id>/<video>/<utterance>.mp4, wav/<id>/<video>/<utterance>.wav
  voxceleb2     VoxCeleb2 (Chung et al. 2018): 6,112 identities, a million utterances
                <dev|test>/mp4/<id>/<video>/00001.mp4, <dev|test>/aac/.../00001.m4a
  tcd-timit     TCD-TIMIT (Harte and Gillen 2015): 62 speakers, phonetically rich sentences
                volunteers/01M/Clips/straightcam/*.mp4, lipspeakers/Lipspkr1/..., *.mlf
  crema-d       CREMA-D (Cao et al. 2014): 91 actors, twelve sentences, six emotions
                VideoFlash/1001_DFA_ANG_XX.flv, VideoDemographics.csv
  obama         Obama's weekly addresses (Suwajanakorn et al. 2017): one person, pose kept
                <video>.mp4
  videos        a folder of your own videos, with or without transcripts
                <person>/<video>.mp4, <video>.txt or <video>.TextGrid beside

Clips are kept that are within these limits; --filter NAME=VALUE moves one, NAME=off removes it:

\b
  found=0.9   least share of frames in which a face is found
  yaw=40      most that the head is turned left or right, degrees; pitch=30, roll=40
  eyes=16     least distance of the eye centres in the source, pixels
  others=0.3  most that a second face may be of the first, by area
  cut=2.5     most that the picture jumps, in what its neighbours change
  speech=0.15 least share of the time in which somebody speaks
  snr=10      least dB of the loud tenth of the sound over its quiet tenth
  offset=1    frames that lips and sound may be apart, where the estimate is sure (confidence=0.2);
              action=correct moves the sound, action=drop drops the clip, action=keep only measures
              [correct; grid: keep]; sync=FILE estimates with weights of `talkingface train sync`

What is dropped is listed with its reason in dropped.jsonl; `talkingface inspect` shows it.

On a cluster: --engine dask --scheduler tcp://host:8786 (workers see the same folders), or a job
array whose tasks each take a share: --shard 3/40. All shares write into the same folder.

Example: talkingface prepare grid GRID -o shards

Example: talkingface prepare lrw LRW -o shards --filter yaw=30 --shard $SLURM_ARRAY_TASK_ID/40
"""


NaturalPose = Annotated[
    bool | None,
    typer.Option(
        "--natural-pose/--still-head",
        help="one crop per clip: the head moves in it [still; obama: natural]",
    ),
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--filter", help="another limit, as yaw=25 or snr=off; repeat"),
]
HoldOut = Annotated[
    list[str] | None,
    typer.Option(help="a speaker kept from training; repeat [as published; grid: s4, s26]"),
]
Group = Annotated[
    str | None,
    typer.Option(help="hold out a known group; grid: unseen (s1, s2, s20, s22), atvg (s29)"),
]
Share = Annotated[
    str | None, typer.Option(help="i/N: only the i-th of N shares, as a job array's task")
]


@app.command(help=HELP)
@takes_report
@takes_workers
def prepare(
    corpus: Annotated[str, typer.Argument(help="what is read, see above")],
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="its folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the shards")],
    report: Reporter,
    workers: Workers,
    portraits: Annotated[
        Path | None, typer.Option(help="also a folder of faces, for training in silence")
    ] = None,
    natural_pose: NaturalPose = None,
    limit: Limits = None,
    hold_out: HoldOut = None,
    split: Group = None,
    shard: Share = None,
) -> None:
    """Turn a corpus into shards; HELP is what the user reads."""
    from talkingface.data import filters, sources
    from talkingface.data import prepare as preparation

    with report.progress("clips") as progress:
        summary = preparation.prepare(
            source,
            output,
            corpus=corpus,
            natural_pose=natural_pose,
            filters=filters.with_limits(preparation.default_filters(corpus), limit or []),
            workers=workers,
            held_out=_held_out(sources.CORPORA, corpus, hold_out, split),
            portraits=portraits,
            part=_share(shard),
            progress=progress,
        )
    _print_summary(summary, report)


def _print_summary(summary: Summary, report: Reporter) -> None:
    """Report what was prepared, after a table of clips by speaker and reason."""
    facts = summary.facts()
    splits = ", ".join(f"{count} {name}" for name, count in facts["splits"].items())
    report.summary(_columns(summary.table()))
    report.result(summary.out, f"{facts['seconds']:.0f} s of faces; clips: {splits}", **facts)
    if summary.missing:
        report.note(f"{summary.missing} shards are still to be written, by the other shares")


@app.command()
@takes_report
def inspect(
    shards: Shards,
    report: Reporter,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the page [inspect.html in the folder]")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show what a folder of shards holds, as one HTML page.

    It also shows what was dropped and why. Clips, hours, people and words; every measure as a
    histogram with its limit; pictures of clips that were kept and of those dropped, by reason. The
    page is one file and asks for nothing else.

    Example: talkingface inspect shards -o report.html
    """
    from talkingface import media
    from talkingface.data import inspection, inspection_page

    page = shards / "inspect.html" if output is None else output
    if output is not None:  # the folder's own page is always the newest
        media.check_output(page, overwrite)
    with report.progress("shards") as progress:
        found = inspection.inspect(shards, progress)
    media.write_text(page, inspection_page.page(found))
    facts = found.facts()
    dropped = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
    report.summary(f"{shards}: {facts['clips']} clips, {facts['seconds'] / 60:.1f} min of speech")
    report.summary(f"dropped: {dropped or 'nothing'}")
    report.result(page, "open it in a browser", page=page, **facts)


def _columns(rows: list[list[str]]) -> str:
    """A table as text: as wide as its cells, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _held_out(
    corpora: dict[str, Corpus], corpus: str, names: list[str] | None, group: str | None
) -> tuple[str, ...] | None:
    """The speakers to hold out; None for the corpus's own choice."""
    if group is None:
        return tuple(names) if names else None
    if names:
        raise BadRequest("--split and --hold-out both name speakers: give one of them")
    groups = corpora[corpus].groups if corpus in corpora else {}
    if group not in groups:
        known = ", ".join(groups) or "none"
        raise BadRequest(f"--split {group}: {corpus} has no group of that name; known: {known}")
    return groups[group]


def _share(text: str | None) -> tuple[int, int]:
    """--shard "3/40" -> (3, 40)."""
    if text is None:
        return 1, 1
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit()):
        raise BadRequest(f"--shard {text!r}: expected i/N, as 3/40")
    return int(first), int(second)
