"""Sentences read letter by letter: the loss against all alignments, the texts, who learns."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from corpus import WORDS, write_cache
from torch import Tensor

from talkingface import weights
from talkingface.data.dataset import Cache, SampleConfig, draw_batch
from talkingface.errors import BadRequest
from talkingface.losses import sentence_reading_loss
from talkingface.metrics.sentences import GrammarReader, edits, error_rates, likeliest
from talkingface.models.lipreader import (
    GRID_GRAMMAR,
    GRID_WORDS,
    LeanLipReader,
    LeanReaderConfig,
    MouthSpec,
)
from talkingface.models.sentences import (
    CODES,
    SentenceReader,
    SentenceReaderConfig,
    spelled,
    text_of,
)
from talkingface.training import presets, sentences
from talkingface.training.cran import CranRecipe
from talkingface.training.reading import half_of, teachers_of
from talkingface.training.sentences import SentenceRecipe


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("cache"))


def recipe_of(cache: Cache) -> SentenceRecipe:
    return SentenceRecipe(presets.SENTENCES["sentences-tiny"], cache)


@pytest.fixture(scope="module")
def reader_file(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "sentences.safetensors"
    recipe_of(cache).export(path, 0, {})
    return path


# --- the loss -------------------------------------------------------------------------------------


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unlikely(logits: Tensor, text: list[int]) -> float:
    """-log of the sum over all paths of letters that collapse to the text."""
    chance = logits.double().softmax(1).numpy()
    total = 0.0
    for path in itertools.product(range(chance.shape[1]), repeat=len(chance)):
        merged = [code for code, _ in itertools.groupby(path)]
        if [code for code in merged if code != 0] == text:
            total += math.prod(chance[step, code] for step, code in enumerate(path))
    return -math.log(total)


def test_the_loss_sums_over_all_alignments() -> None:
    logits, lengths = noise(5, 6, 4), torch.tensor([6, 5, 4, 6, 2])
    texts = [[2, 3], [2, 1, 3], [3, 3], [], [3, 3]]  # code 1 parts words; the last one cannot fit
    letters = torch.tensor([text + [-1] * (3 - len(text)) for text in texts])
    loss = sentence_reading_loss(logits, lengths, letters)
    expected = [unlikely(logits[0, :6], [2, 3]), unlikely(logits[2, :4], [3, 3])]
    expected += [unlikely(logits[1, :5], [2, 1, 3]) / 2]  # of two words
    assert float(loss) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_what_says_nothing_or_does_not_fit_is_silent() -> None:
    logits = noise(3, 4, 4).requires_grad_()
    letters = torch.tensor([[-1, -1, -1], [2, 2, 2], [2, 3, -1]])  # 2 2 2 takes five steps
    sentence_reading_loss(logits, torch.tensor([4, 4, 3]), letters).backward()
    assert logits.grad is not None
    assert (logits.grad[:2] == 0).all() and (logits.grad[2, 3] == 0).all()
    assert (logits.grad[2, :3] != 0).any()
    nothing = sentence_reading_loss(logits[:1], torch.tensor([4]), letters[:1])
    assert float(nothing.detach()) == 0
    with pytest.raises(ValueError, match="letters"):
        sentence_reading_loss(logits[0], torch.tensor([4]), letters[:1])


def test_descent_ends_at_the_text() -> None:
    logits = torch.zeros(1, 12, CODES, requires_grad=True)
    letters = torch.tensor([spelled("at f")])
    for _ in range(60):
        (step,) = torch.autograd.grad(
            sentence_reading_loss(logits, torch.tensor([12]), letters), logits
        )
        with torch.no_grad():
            logits -= 20 * step
    assert likeliest(logits[0].detach().numpy()) == "at f"


# --- letters and texts ----------------------------------------------------------------------------


def test_spelling_and_back() -> None:
    assert spelled("a b") == [2, 1, 3] and text_of(spelled("Bin  blue, at 9 f")) == "bin blue at f"
    assert text_of([0, 2, 0, -1]) == "a" and spelled(" 9 ") == []


def path_of(text: str) -> np.ndarray:
    """Scores of a reader that is sure of a text, each letter between two blanks."""
    codes = [code for letter in spelled(text) for code in (0, letter)] + [0]
    return np.log(np.eye(CODES)[codes] * 0.9 + 0.1 / CODES)


def test_the_likeliest_path_is_merged_and_its_blanks_go() -> None:
    assert likeliest(path_of("green soon")) == "green soon"
    assert likeliest(path_of("green").repeat(3, axis=0)) == "green"


def test_the_grammar_repairs_what_was_misread() -> None:
    by_grammar = GrammarReader(GRID_GRAMMAR)
    for text in ("bin blue at f two now", "place green with z three please"):
        assert by_grammar(path_of(text)) == text
        assert by_grammar(path_of(text).repeat(2, axis=0)) == text
    assert by_grammar(path_of("bim blu ot f too nowe")) == "bin blue at f two now"
    assert by_grammar(path_of("set")) == ""  # too short for any sentence


def test_the_grammar_finds_the_best_path_of_all_sentences() -> None:
    grammar = (("ab", "b"), ("a", "aa"))
    said = [" ".join(words) for words in itertools.product(*grammar)]
    for seed in range(5):
        scores = noise(6, CODES, seed=seed).log_softmax(1).numpy() * 3
        best = {
            text: max(
                sum(scores[step, code] for step, code in enumerate(path))
                for path in itertools.product((0, 1, 2, 3), repeat=6)
                if [c for c, _ in itertools.groupby(path) if c != 0] == spelled(text)
            )
            for text in said
            if text != "ab aa"  # seven steps
        }
        assert GrammarReader(grammar)(scores) == max(best, key=lambda text: best[text])


def test_edits_and_rates() -> None:
    assert edits("kitten", "sitting") == 3 and edits("", "abc") == 3 and edits("abc", "") == 3
    letters, words = error_rates(["bin red", "set"], ["bin blue", "set"])
    assert letters == pytest.approx(edits("red", "blue") / 11) and words == pytest.approx(1 / 3)


# --- the network ----------------------------------------------------------------------------------

SMALL = MouthSpec(height=16, width=16)
TINY = SentenceReaderConfig(mouth=SMALL, channels=(4, 8), feature=12, hidden=8, dropout=0.2)


def test_padding_and_neighbours_change_nothing() -> None:
    reader, lengths = SentenceReader(TINY).eval(), torch.tensor([6, 3])
    mouths = noise(2, 6, 1, 16, 16)
    both = reader(mouths, lengths)
    assert both.shape == (2, 12, CODES)
    alone = reader(mouths[1:, :3], lengths[1:])
    assert torch.allclose(both[1, :6], alone[0], atol=1e-5)


def test_it_has_the_eyes_of_the_reader_of_words() -> None:
    words = LeanLipReader(LeanReaderConfig(5, mouth=SMALL, channels=(4, 8), feature=12, hidden=8))
    reader, mouths, lengths = SentenceReader(TINY).eval(), noise(1, 4, 1, 16, 16), torch.tensor([4])
    reader.take_eyes(words)
    assert torch.equal(reader.see(mouths, lengths, SMALL), words.eval().see(mouths, lengths, SMALL))
    with pytest.raises(ValueError, match="other layers"):
        reader.take_eyes(LeanLipReader())


# --- training -------------------------------------------------------------------------------------


def test_it_learns_to_spell_and_its_eyes_stay(cache: Cache) -> None:
    recipe = recipe_of(cache)
    eyes = {n: v.clone() for n, v in recipe.reader.state_dict().items() if "motion" in n}
    losses = [recipe.step(recipe.batch(k % 2), k % 3)["loss"] for k in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(v, recipe.reader.state_dict()[n]) for n, v in eyes.items())
    assert {half_of(p.clip) for p in recipe.passages} == {"first"}


def test_batches_are_a_function_of_the_step(cache: Cache) -> None:
    first, second = recipe_of(cache), recipe_of(cache)
    first.batch(0)
    assert torch.equal(first.batch(3).seen, second.batch(3).seen)
    assert torch.equal(first.batch(3).letters, second.batch(3).letters)


def test_parts_say_their_own_words(cache: Cache) -> None:
    clip = next(c for c in cache.split("train") if c.words)
    texts = [word for word, _, _ in clip.words]
    for seed in range(20):
        passage = sentences.some_words(clip, np.random.default_rng(seed))
        words = passage.text.split()
        first = texts.index(words[0])
        assert texts[first : first + len(words)] == words
        assert passage.first == round(clip.words[first][1] * 25)
        assert passage.last == round(clip.words[first + len(words) - 1][2] * 25)


def test_samples_say_the_words_wholly_within_them(cache: Cache) -> None:
    spec = presets.CRAN["cran-tiny"].model.speech
    batch = draw_batch(cache, cache.split("train"), spec, SampleConfig(12, 12, silent=0), (0,))
    texts = [text_of(row) for row in batch.letters.tolist()]
    assert any(" " in text for text in texts)
    sentence = " ".join(word for word, _, _ in WORDS)
    assert all(text in sentence for text in texts)
    for text, (first, last), index in zip(texts, batch.run.tolist(), batch.word, strict=True):
        assert 0 <= first < last <= 12
        assert int(index) < 0 or GRID_WORDS[int(index)] in text.split()


def test_it_guides_the_generator_and_does_not_learn(cache: Cache, reader_file: Path) -> None:
    training = presets.shortened(presets.CRAN["cran-tiny"], (0, 0, 2))
    (stage,) = training.stages
    recipe = CranRecipe(training, cache, reader=reader_file)
    before = {n: v.clone() for n, v in recipe.reader.state_dict().items()}
    losses = recipe.step(recipe.batch(0), 0)
    assert losses["reading"] > 0 and "critic/reading" not in losses
    assert all(torch.equal(v, recipe.reader.state_dict()[n]) for n, v in before.items())
    assert all(p.grad is None for p in recipe.reader.parameters())
    batch = recipe.batch(0).to("cpu")
    made, _, _ = recipe._generate(batch, stage)
    recipe.reader.eval()
    assert made is not None
    recipe._misread(made.frames, batch).backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in recipe.model.parameters())
    with pytest.raises(BadRequest, match="reading=frozen"):
        adversary = presets.choose(presets.CRAN, "cran-tiny", None, [], ["reading=bounded"])
        CranRecipe(adversary, cache, reader=reader_file)


def test_who_taught_is_no_judge(cli: Cli, cache: Cache, reader_file: Path, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_cache(corpus)
    own = ("train", "cran", corpus, "--preset", "cran-tiny", "--steps", "0,0,1")
    ran = cli(*own, "-o", run, "--reader", reader_file)
    assert ran.code == 0, ran.err
    made = run / "weights.safetensors"
    eyes = weights.load_with_info("lipreader")[1].sha256
    sentence_reader = weights.load_with_info(reader_file)[1]
    assert teachers_of(weights.load_with_info(made)[1]) == {sentence_reader.sha256, eyes}
    later = cli(*own, "-o", tmp_path / "later", "--init", made, "--without", "reading")
    assert later.code == 0, later.err
    for model in (made, tmp_path / "later" / "weights.safetensors"):  # whose eyes it was taught by
        judged = cli("evaluate", "--models", model, "--cache", corpus, "-o", tmp_path / "out",
                     "--judge", "lipreader")  # fmt: skip
        assert judged.code == 2 and "learned from this judge" in judged.err
    spelling = cli("evaluate", "--models", made, "--cache", corpus, "-o", tmp_path / "out",
                   "--judge", reader_file)  # fmt: skip
    assert spelling.code == 2 and "judge must be a lip reader" in spelling.err


def test_the_command_trains_and_measures(cli: Cli, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_cache(corpus)
    ran = cli("train", "lipreader", corpus, "-o", run, "--preset", "sentences-tiny")
    assert ran.code == 0 and "6 of 6 steps" in ran.out, ran
    reader, info = weights.load_with_info(run / "weights.safetensors")
    assert isinstance(reader, SentenceReader) and "sentences of" in info.training_data
    assert set(info.metrics) == {"cer", "wer", "grammar_cer", "grammar_wer"}
    rows = json.loads((corpus / "clips.json").read_text())
    (corpus / "clips.json").write_text(json.dumps([{**row, "words": []} for row in rows]))
    mute = cli("train", "lipreader", corpus, "-o", run, "--preset", "sentences-tiny")
    assert mute.code == 2 and "nobody knows what is said" in mute.err
    other = cli("train", "lipreader", corpus, "-o", run, "--init", "judge")
    assert other.code == 2 and "for readers of sentences" in other.err
