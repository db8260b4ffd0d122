"""A paper's table from one command: its trainings as rows, its numbers, its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import Cli
from helpers.corpus import write_cache
from talkingface import weights
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest
from talkingface.evaluation.results import read_results
from talkingface.evaluation.tables import mean
from talkingface.picture import read
from talkingface.reproduce import papers, trainings
from talkingface.training.presets import BASELINES, CRAN, choose


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, portrait: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    face = read(portrait)
    write_cache(folder, np.asarray(cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA)))
    return folder


def test_every_row_can_be_trained_and_begins_with_a_row_before_it() -> None:
    for rows in trainings.TABLES.values():
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        for index, row in enumerate(rows):
            known = CRAN if row.method == "cran" else BASELINES
            choose(known, row.preset, row.steps, list(row.without), list(row.change))
            assert not row.after or row.after in names[:index]


def test_branches_differ_in_their_losses_alone() -> None:
    rows = {row.label: row for row in trainings.rows_of("song-table1")}
    losses, others = {}, set()
    for label in papers.LOSSES:
        row = rows[label]
        training = choose(CRAN, row.preset, row.steps, list(row.without), list(row.change))
        (stage,) = training.stages
        losses[label] = set(stage.weights)
        others.add((row.after, row.preset, row.steps, row.change))
    assert len(others) == 1
    assert losses["L_r,V"] - losses["L_r"] == {"video"}
    assert losses["L_r,I,V"] - losses["L_r,V"] == {"image"}
    assert losses["L_r,I,V,l"] - losses["L_r,I,V"] == {"reading"}


def test_every_figure_shows_rows_that_are_there() -> None:
    assert set(papers.PAPERS) == set(trainings.TABLES)
    for name, paper in papers.PAPERS.items():
        there = {row.label for row in trainings.rows_of(name)} | set(paper.further)
        shown = {row for sheet in paper.sheets for row in sheet.rows}
        assert shown | {paper.reference, *paper.long} <= there


def test_unknown_rows_and_tables_name_the_known() -> None:
    with pytest.raises(BadRequest, match="known: song-table1"):
        trainings.rows_of("table9")
    with pytest.raises(BadRequest, match="has no row 'cran'; it has chung, zhou"):
        trainings.rows_of("song-table1", ["cran"])


@pytest.mark.slow
def test_a_table_from_its_trainings_to_its_figures(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "results"
    before = cli("evaluate", "--preset", "tiny", "--runs", runs, "--cache", corpus, "-o", out)
    assert before.code == 2 and "r, chung of tiny have no weights" in before.err, before
    assert "talkingface train table tiny" in before.err

    trained = cli("train", "table", "tiny", corpus, "-o", runs)
    assert trained.code == 0, trained.err
    start = weights.load(runs / "start" / "weights.safetensors").state_dict()
    begun: Any = trainings.recipe_of(trainings.rows_of("tiny")[1], Cache(corpus), runs, "lipreader")
    for name, value in begun.model.state_dict().items():
        assert value.equal(start[name]), name

    path = runs / "r" / "weights.safetensors"
    assert weights.load_with_info(path)[1].extra["taught_by"] == [
        weights.load_with_info("lipreader")[1].sha256
    ]
    refused = cli(
        *("evaluate", "--models", path, "--cache", corpus, "-o", out, "--judge", "lipreader")
    )
    assert refused.code == 2 and "learned from this judge" in refused.err

    done = cli("evaluate", "--preset", "tiny", "--runs", runs, "--cache", corpus, "-o", out)
    assert done.code == 0, done.err
    results = read_results(out / "results.jsonl")
    assert {r.model for r in results} == {"real", "still", "L_r", "Chung 2017"}
    own = [r for r in results if (r.model, r.split, r.identity) == ("L_r", "test", "first frame")]
    printed = (out / "tiny.md").read_text()
    row = next(line for line in printed.splitlines() if line.startswith("| L_r |"))
    assert row.split("|")[2].split()[0] == f"{mean([r.metrics['psnr'] for r in own]):.2f}"
    for figure in ("fig4.png", "drift.png"):
        assert read(out / figure).std() > 1
