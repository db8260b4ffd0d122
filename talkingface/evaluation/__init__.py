"""Models x clips x measures -> results.jsonl -> tables. `evaluate` is all of it in one call."""

from talkingface.evaluation.bench import (
    FROM_LANDMARKS,
    LIPS_ALONE,
    Bench,
    Candidate,
    Played,
    open_candidate,
)
from talkingface.evaluation.detection import detect
from talkingface.evaluation.measures import Filmed
from talkingface.evaluation.results import (
    IDENTITIES,
    REAL,
    STILL,
    Result,
    read_results,
    write_results,
)
from talkingface.evaluation.run import evaluate, evaluate_pairs, outputs
from talkingface.evaluation.tables import Estimate, estimates, latex, markdown, summary

__all__ = [
    "FROM_LANDMARKS",
    "IDENTITIES",
    "LIPS_ALONE",
    "REAL",
    "STILL",
    "Bench",
    "Candidate",
    "Estimate",
    "Filmed",
    "Played",
    "Result",
    "detect",
    "estimates",
    "evaluate",
    "evaluate_pairs",
    "latex",
    "markdown",
    "open_candidate",
    "outputs",
    "read_results",
    "summary",
    "write_results",
]
