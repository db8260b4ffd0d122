"""Evaluation of models on clips: measures, results.jsonl and tables. `evaluate` does all of it."""

from talkingface.evaluation.clip_tables import estimates, latex, markdown, summary
from talkingface.evaluation.detection import detect
from talkingface.evaluation.evaluator import (
    FROM_LANDMARKS,
    LIPS_ALONE,
    EvaluatedModel,
    Evaluator,
    GeneratedClip,
    open_model,
)
from talkingface.evaluation.measures import VideoWithLandmarks
from talkingface.evaluation.results import (
    IDENTITIES,
    REAL,
    STILL,
    Result,
    read_results,
    write_results,
)
from talkingface.evaluation.run import evaluate, evaluate_pairs, outputs
from talkingface.evaluation.tables import Estimate

__all__ = [
    "FROM_LANDMARKS",
    "IDENTITIES",
    "LIPS_ALONE",
    "REAL",
    "STILL",
    "Estimate",
    "EvaluatedModel",
    "Evaluator",
    "GeneratedClip",
    "Result",
    "VideoWithLandmarks",
    "detect",
    "estimates",
    "evaluate",
    "evaluate_pairs",
    "latex",
    "markdown",
    "open_model",
    "outputs",
    "read_results",
    "summary",
    "write_results",
]
