"""Table 2 of Song et al. 2019 from the answers of a study, with details on its reliability."""

from __future__ import annotations

import json
import math
import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface import media
from talkingface.evaluation import intervals, tables
from talkingface.evaluation.files import number, prepare_outputs
from talkingface.evaluation.tables import Column, Estimate, Row, Table
from talkingface.study import statistics
from talkingface.study.statistics import LEVEL, Interval
from talkingface.study.store import PASS, QUESTIONS, Standing, Study, Vote

NAME = "study"  # stem of the files: study.md, study.tex, study.json
COLUMNS: tuple[Column, ...] = tuple((heading, key, 2) for key, heading in QUESTIONS.items())
DETAILS: tuple[Column, ...] = (
    ("votes", "votes", 0),
    ("raters", "raters", 0),
    ("samples", "samples", 0),
    ("share (Wilson)", "share", 3),
    ("p (sign test)", "p", 4),
    ("pairs of raters agree", "agreement", 3),
    ("Krippendorff's alpha", "alpha", 3),
)


@dataclass(frozen=True)
class Result:
    """Result of the first method against another one, for one question.

    ours: votes for the first method, of `votes`. two_way, wilson, over_raters, over_samples:
    intervals of their share (see `statistics`; the last two are bootstraps over raters and over
    samples). p: of the sign test over samples. agreement, alpha: of raters.
    """

    other: str
    question: str
    votes: int
    ours: int
    raters: int
    samples: int
    two_way: Interval
    wilson: Interval
    over_raters: Interval
    over_samples: Interval
    p: float
    agreement: float
    alpha: float

    @property
    def share(self) -> float:
        """Return the share of votes for the first method; NaN without votes."""
        return self.ours / self.votes if self.votes else math.nan


@dataclass(frozen=True)
class Panel:
    """Counts of raters.

    raters: who began. voted: who answered a pair that is no check. left_out: who failed the
    checks. unchecked: who voted but met no check. chose_a: share of the left side, 0.5 without
    bias. seconds: median time of a pair. The last two include only raters who passed.
    """

    raters: int
    voted: int
    left_out: int
    unchecked: int
    chose_a: float
    seconds: float
    threshold: float


@dataclass(frozen=True)
class Outcome:
    """Results of a study. methods: the one that is compared with all others comes first."""

    methods: list[str]
    results: list[Result]
    panel: Panel
    standings: list[Standing]


def outcome(study: Study, threshold: float = PASS) -> Outcome:
    """Compute the results of a study, finished or not.

    threshold: raters with a smaller share of right answers to attention checks are left out.
    """
    standings = study.standings()
    passed = {s.rater for s in standings if s.passed(threshold)}
    votes = study.votes()
    counted = [vote for vote in votes if vote.rater in passed]
    results = [
        result([v for v in counted if (v.other, v.question) == (other, question)], other, question)
        for other in study.methods[1:]
        for question in QUESTIONS
    ]
    voting = {vote.rater for vote in votes}
    panel = Panel(
        raters=len(standings),
        voted=len(voting),
        left_out=len(voting - passed),
        unchecked=sum(s.rater in voting and s.met == 0 for s in standings),
        chose_a=float(np.mean([v.chose_a for v in counted])) if counted else math.nan,
        seconds=plain.median([v.seconds for v in counted]) if counted else math.nan,
        threshold=threshold,
    )
    return Outcome(study.methods, results, panel, standings)


def result(votes: Sequence[Vote], other: str, question: str) -> Result:
    """Compute the result of one method and question from its votes."""
    ours = np.array([vote.ours for vote in votes], dtype=np.float64)
    raters = np.array([vote.rater for vote in votes], dtype=np.int64)
    samples = np.array([vote.sample for vote in votes], dtype=np.str_)
    won, of = _sums(samples, ours)
    counts = np.stack([won, of - won], axis=1)
    return Result(
        other=other,
        question=question,
        votes=len(votes),
        ours=int(ours.sum()),
        raters=len(set(raters.tolist())),
        samples=len(of),
        two_way=statistics.two_way(ours, raters, samples),
        wilson=statistics.wilson(float(ours.sum()), len(votes)),
        over_raters=intervals.interval(intervals.ratio(*_sums(raters, ours))),
        over_samples=intervals.interval(intervals.ratio(won, of)),
        p=statistics.sign_test(ours, samples),
        agreement=statistics.pairwise_agreement(counts),
        alpha=statistics.krippendorff(counts),
    )


def _sums(labels: NDArray[Any], ours: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (votes for ours, votes) of each label."""
    _, index = np.unique(labels, return_inverse=True)
    return np.bincount(index, ours), np.bincount(index).astype(np.float64)


# --- printed --------------------------------------------------------------------------------------


def as_printed(found: Outcome) -> list[Table]:
    """Return the paper's table and a table with the details of each of its cells."""
    rows: dict[str, dict[str, float | Estimate]] = {}
    details: dict[str, Row] = {}
    for r in found.results:
        differs = r.two_way[0] > 0.5 or r.two_way[1] < 0.5
        cell = Estimate(r.share, *r.two_way, differs=differs, against=True)
        rows.setdefault(r.other, {})[r.question] = cell
        details[f"{r.other}, {QUESTIONS[r.question]}"] = {
            "votes": r.votes,
            "raters": r.raters,
            "samples": r.samples,
            "share": Estimate(r.share, *r.wilson),
            "p": r.p,
            "agreement": r.agreement,
            "alpha": r.alpha,
        }
    ours = found.methods[0]
    return [
        Table(f"Voting to {ours} vs. others", rows, COLUMNS, _main_caption(ours)),
        Table("method, question", details, DETAILS, _details_caption()),
    ]


def _main_caption(ours: str) -> str:
    return (
        f"Share of votes for {ours} / for the other method. [low, high]: {LEVEL:.0%} interval of "
        "the former, clustered by raters and by samples (Cameron, Gelbach & Miller 2011). *: it "
        "excludes 0.50."
    )


def _details_caption() -> str:
    return (
        f"Wilson's {LEVEL:.0%} interval takes every vote for independent: too narrow where raters "
        "or samples differ. Sign test: two-sided, a sample is won by the majority of its votes, "
        "ties left out; p of a single cell, not corrected for their number. Agreement of two "
        "raters on the same pair (0.5 is chance); Krippendorff's alpha (1 perfect, 0 chance; near "
        "0 also where nearly all votes fall the same way)."
    )


def panel_summary(panel: Panel) -> str:
    """Describe the raters in a few sentences."""
    text = (
        f"{panel.raters} raters began, {panel.voted} voted; {panel.left_out} of these are left out "
        f"(under {panel.threshold:.0%} of their attention checks right), {panel.unchecked} met no "
        "check."
    )
    if math.isfinite(panel.chose_a):
        text += (
            f" Median time of a pair: {panel.seconds:.0f} s. The left video was chosen in "
            f"{panel.chose_a:.0%} of the answers (sides were random)."
        )
    return text


def markdown(found: Outcome) -> str:
    """Return the results as Markdown."""
    parts = [f"# User study: {found.methods[0]} against {', '.join(found.methods[1:])}\n"]
    for one in as_printed(found):
        parts += [tables.table(one.first, one.rows, one.columns), f"{one.caption}\n"]
    return "\n".join([*parts, f"{panel_summary(found.panel)}\n"])


def latex(found: Outcome) -> str:
    r"""Return the tables for \input in LaTeX; needs \usepackage{booktabs}."""
    main, details = as_printed(found)
    captions = f"User study. {main.caption}", f"{details.caption} {panel_summary(found.panel)}"
    floats = (tables.tabular(t, c) for t, c in zip((main, details), captions, strict=True))
    return "\n".join(["% \\usepackage{booktabs}\n", *floats])


def as_json(found: Outcome) -> str:
    """Return the results, with every rater, as JSON. null means unknown."""
    results = [{**asdict(r), "share": r.share} for r in found.results]
    panel, threshold = asdict(found.panel), found.panel.threshold
    raters = [{**asdict(s), "passed": s.passed(threshold)} for s in found.standings]
    whole = {"methods": found.methods, "panel": panel, "results": results, "raters": raters}
    return json.dumps(_known(whole), indent=1) + "\n"


def _known(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    return number(value) if isinstance(value, float) else value


def write(found: Outcome, out: Path, overwrite: bool = False) -> None:
    """Write the tables as Markdown, LaTeX and JSON into a folder. Raises OutputError."""
    texts = {"md": markdown(found), "tex": latex(found), "json": as_json(found)}
    prepare_outputs(out, (f"{NAME}.{kind}" for kind in texts), overwrite)
    for kind, text in texts.items():
        media.write_text(out / f"{NAME}.{kind}", text, overwrite)
