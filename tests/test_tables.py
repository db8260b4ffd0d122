"""Tables: stars against a reference, failures, captions; LaTeX says what Markdown says."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from talkingface.errors import BadRequest
from talkingface.evaluation import Estimate, Result, estimates, latex, markdown
from talkingface.evaluation.intervals import difference, interval, ratio
from talkingface.evaluation.results import Identity

CLIPS = 24


def rows(
    model: str,
    values: np.ndarray,
    name: str = "lmd_pixels",
    identity: Identity = "first frame",
    split: str = "test",
) -> list[Result]:
    """A model with these values of one measure, a clip each."""
    empty = Result(model, "", "", "s1", split, identity, "", {}, [], [], [], [], "")
    return [
        replace(empty, clip=f"c{n:02}", metrics={name: float(value), "missed": 0.0})
        for n, value in enumerate(values)
    ]


@pytest.fixture
def results() -> list[Result]:
    """Clips that differ much, three models that differ little: by 0.2, by chance, not at all."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.5, 3.5, CLIPS)
    better, alike = hard - 0.2 + rng.normal(0, 0.1, CLIPS), hard + rng.normal(0, 0.1, CLIPS)
    return [*rows("ours", hard), *rows("better", better), *rows("alike", alike)]


def of(results: list[Result], model: str) -> list[Result]:
    return [r for r in results if r.model == model]


def lines(text: str) -> dict[str, list[str]]:
    """Markdown: the cells of each row, by its name; the last table's where there are several."""
    cut = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in cut}


def test_an_estimate_is_the_mean_its_interval_and_the_paired_star(results: list[Result]) -> None:
    ours, better = (
        np.array([r.metrics["lmd_pixels"] for r in of(results, m)], float)
        for m in ("ours", "better")
    )
    found = estimates(of(results, "better"), of(results, "ours"))["lmd_pixels"]
    low, high = interval(ratio(better))
    assert found.value == pytest.approx(better.mean())
    assert found == Estimate(found.value, low, high, True)
    assert difference(ratio(better), ratio(ours))[1] < 0 and low < ours.mean() < high
    assert not estimates(of(results, "alike"), of(results, "ours"))["lmd_pixels"].differs
    assert not estimates(of(results, "better"))["lmd_pixels"].differs  # nothing to differ from


def test_the_star_and_the_interval_stand_in_the_cell(results: list[Result]) -> None:
    head, first = lines(markdown(results))["model"], "ours"
    place = head.index("LMD px")
    value = estimates(of(results, "better"))["lmd_pixels"]
    expected = f"{value.value:.2f}* [{value.low:.2f}, {value.high:.2f}]"
    assert lines(markdown(results))["better"][place] == expected
    assert "*" not in lines(markdown(results))["alike"][place]
    assert "*" not in lines(markdown(results))[first][place] and "differs from ours" in markdown(
        results
    )
    other = lines(markdown(results, "better"))
    assert "*" in other[first][place] and "*" not in other["better"][place]
    assert f"differs from {first}" not in markdown(results, "better")
    with pytest.raises(BadRequest, match=r"no row is called 'best' .*; there are ours, better"):
        markdown(results, "best")


def test_real_and_still_are_no_reference_unless_named() -> None:
    values = np.linspace(1, 2, 8)
    results = [*rows("real", 0 * values), *rows("still", values), *rows("ours", values / 2)]
    assert "differs from ours" in markdown(results)
    assert "differs from still" in markdown(results, "still")
    assert "differs" not in markdown(results[:16])  # nothing but these


def test_only_clips_that_both_have_are_compared(results: list[Result]) -> None:
    """A model that fails on the hard clips is not better for it."""
    ours = of(results, "ours")
    easy = [replace(r, model="easy") for r in ours]
    middle = float(np.median([r.metrics["lmd_pixels"] or 0 for r in ours]))
    easy = [
        replace(r, error="no face") if (r.metrics["lmd_pixels"] or 0) > middle else r for r in easy
    ]
    found = estimates(easy, ours)
    assert found["lmd_pixels"].value < middle and not found["lmd_pixels"].differs
    assert (found["clips"].value, found["failed"].value) == (CLIPS / 2, CLIPS / 2)


def test_failures_are_counted_and_told(results: list[Result]) -> None:
    broken = replace(results[CLIPS], metrics={}, error="two faces | none chosen")
    noted = replace(results[0], note="shorter")
    text = markdown([noted, *results[1:CLIPS], broken, *results[CLIPS + 1 :]])
    table = text.split("\n\n| model | clip | remark |")
    head = lines(table[0])["model"]
    counts = [
        (row[head.index("clips")], row[head.index("failed")])
        for row in (lines(table[0])["better"], lines(table[0])["ours"])
    ]
    assert counts == [(str(CLIPS - 1), "1"), (str(CLIPS), "0")]
    assert "| better | c00 | failed: two faces \\| none chosen |" in table[1]
    assert "| ours | c00 | shorter |" in table[1]
    everything = markdown([replace(r, metrics={}, error="x") for r in results])
    assert lines(everything.split("| model | clip |")[0])["ours"] == ["0", str(CLIPS), "0"]


def test_a_column_that_nobody_has_is_left_out(results: list[Result]) -> None:
    assert "PSNR" not in markdown(results) and "silence" not in markdown(results)
    text = markdown(rows("ours", np.linspace(20, 30, 5), "psnr"))
    assert "| pixels | PSNR dB |\n" in text and "LMD" not in text


def test_the_authors_numbers_say_what_they_are() -> None:
    values = np.linspace(20, 30, 5)
    text = markdown([*rows("ours", values, "author_psnr"), *rows("other", values, "author_psnr")])
    before, after = text.split("As ATVGnet's released script computes them", 1)
    assert "PSNR dB, authors'" in after and "PSNR" not in before
    assert "released script" not in markdown(rows("ours", values, "psnr"))
    assert "released script" in latex(rows("ours", values, "author_psnr"))


def test_splits_and_identities_have_tables_of_their_own() -> None:
    values = np.linspace(1, 2, 4)
    parts = [("test", "first frame"), ("test", "another recording"), ("pairs", "unknown")]
    results = [
        result
        for n, (split, identity) in enumerate(parts)
        for result in rows("ours", values + n, split=split, identity=identity)  # type: ignore[arg-type]
    ]
    text = markdown(results)
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        "test, identity: first frame",
        "test, identity: another recording",
        "pairs",
    ]
    assert re.findall(r"\| ours \|.* (\d\.\d\d) \[", text) == ["1.50", "2.50", "3.50"]


ODD = r"50%_of{a}&b$#~^\<>²|"


def test_latex_says_the_same_numbers_and_escapes_names(results: list[Result]) -> None:
    results = [replace(r, model=ODD) if r.model == "better" else r for r in results]
    results = [replace(r, metrics={**r.metrics, "lag": -0.4}) for r in results]
    text, md = latex(results, "ours"), markdown(results, "ours")
    number = re.compile(r"-?\d+\.\d+")
    body = text.split("\\midrule")[1].split("\\bottomrule")[0].replace("$-$", "-")
    cells = [row.split(" & ") for row in body.strip().removesuffix("\\\\").split("\\\\\n")]
    tabled = [line for line in md.split("---:")[-1].splitlines() if line.startswith("| ")]
    assert [number.findall(" ".join(row[1:])) for row in cells] == [
        number.findall(line.split(" | ", 1)[1]) for line in tabled
    ]
    assert [row.count("*") for row in map(" ".join, cells)] == [
        line.replace(ODD.replace("|", "\\|"), "").count("*") for line in tabled
    ]
    escaped = (
        r"50\%\_of\{a\}\&b\$\#\textasciitilde{}\textasciicircum{}\textbackslash{}"
        r"\textless{}\textgreater{}\textsuperscript{2}\textbar{}"
    )
    assert cells[1][0].strip() == escaped
    columns = re.findall(r"\\begin\{tabular\}\{l(r+)\}", text)
    assert all(len(row) == len(columns[0]) + 1 for row in cells)
    for name in ("table", "tabular"):
        opened = text.count(f"\\begin{{{name}}}")
        assert opened == text.count(f"\\end{{{name}}}") == md.count("| model |")
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
