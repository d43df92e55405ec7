"""Corpora: what can be read, how it is cut into batches, and what is said about what cannot be read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import CorpusError
from workloads.corpus import Corpus, load_corpus, repetition

TEXT = "".join(f"line {number} of the text, with an é\n" for number in range(200))


def load(path: Path | None, *, seq_len: int = 16, vocab_size: int | None = None) -> Corpus:
    return load_corpus(None if path is None else str(path), seq_len=seq_len, vocab_size=vocab_size)


def stream_of(corpus: Corpus) -> npt.NDArray[Any]:
    return np.concatenate((corpus.train, corpus.validation))


def text_of(corpus: Corpus) -> str:
    return bytes(stream_of(corpus).astype(np.uint8)).decode()


def corpus_of(num_train: int, num_validation: int = 200) -> Corpus:
    return Corpus(
        train=np.arange(num_train, dtype=np.uint16),
        validation=np.arange(num_validation, dtype=np.uint16),
        num_ids=60_000,
        sha256="",
        num_files=1,
        description="numbers",
    )


# -- what can be read


def test_the_default_is_the_standard_library() -> None:
    corpus = load(None, seq_len=128)
    assert corpus.num_files > 100
    assert len(corpus.train) > 4_000_000
    assert "standard library" in corpus.description
    assert b"def " in corpus.train[:10_000].tobytes()
    assert load(None, seq_len=128).sha256 == corpus.sha256


def test_a_text_file_is_its_bytes_and_the_tail_validates(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    corpus = load(path)
    data = path.read_bytes()
    assert text_of(corpus) == TEXT
    assert corpus.sha256 == hashlib.sha256(data).hexdigest()
    assert len(corpus.validation) == int(0.05 * len(data))
    assert (corpus.bos, corpus.vocab_size, corpus.num_files) == (256, 257, 1)


def test_a_folder_is_its_files_in_order_of_path_without_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("second " * 60)
    (tmp_path / "a.txt").write_text("first " * 60)
    (tmp_path / ".hidden").write_bytes(b"\0")
    corpus = load(tmp_path)
    assert text_of(corpus) == "first " * 60 + "second " * 60
    assert corpus.num_files == 2


def test_a_glob_picks_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("yes " * 100)
    (tmp_path / "a.md").write_text("no " * 100)
    assert text_of(load(tmp_path / "*.txt")) == "yes " * 100


def test_jsonl_and_parquet_give_their_texts(tmp_path: Path) -> None:
    texts = ["a row\u2028with a line separator " * 20, "another " * 40]
    lines = "".join(json.dumps({"text": text, "id": 1}, ensure_ascii=False) + "\n\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    pl.DataFrame({"text": [texts[0], None, texts[1]]}).write_parquet(tmp_path / "a.parquet")
    assert text_of(load(tmp_path / "a.jsonl")) == "\n".join(texts)
    assert text_of(load(tmp_path / "a.parquet")) == "\n".join(texts)


def test_token_files_are_mapped_and_their_vocabulary_is_found(tmp_path: Path) -> None:
    ids = np.arange(4000, dtype="<u2")
    ids.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", ids)
    for name in ("a.bin", "a.npy"):
        corpus = load(tmp_path / name)
        assert np.array_equal(stream_of(corpus), ids)
        assert (corpus.bos, corpus.vocab_size) == (4000, 4001)
        assert corpus.sha256 == hashlib.sha256(ids.tobytes()).hexdigest()
    assert load(tmp_path / "a.bin", vocab_size=50_257).vocab_size == 50_258
    assert len(stream_of(load(tmp_path / "a.*"))) == 8000


# -- batches


def test_a_batch_is_its_targets_shifted_behind_the_bos() -> None:
    corpus = corpus_of(1000)
    inputs, targets = corpus.train_batch(3, batch_size=4, seq_len=10, seed=0)
    assert inputs.shape == targets.shape == (4, 10)
    assert inputs.dtype == targets.dtype == torch.int64
    assert (inputs[:, 0] == corpus.bos).all()
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert (targets[:, 1:] == targets[:, :-1] + 1).all()


@settings(max_examples=30, deadline=None)
@given(
    num_train=st.integers(40, 3000),
    batch_size=st.integers(1, 9),
    seq_len=st.integers(1, 40),
    seed=st.integers(0, 5),
)
def test_one_pass_sees_each_window_once(num_train: int, batch_size: int, seq_len: int, seed: int) -> None:
    corpus = corpus_of(num_train)
    num_windows = num_train // seq_len
    positions = range(-(-num_windows // batch_size))
    cut = {"batch_size": batch_size, "seq_len": seq_len, "seed": seed}
    firsts = [int(row[0]) for position in positions for row in corpus.train_batch(position, **cut)[1]]
    assert sorted(firsts[:num_windows]) == [window * seq_len for window in range(num_windows)]


def test_a_batch_depends_on_position_and_seed_only() -> None:
    def targets(position: int, seed: int) -> torch.Tensor:
        return corpus_of(1000).train_batch(position, batch_size=4, seq_len=10, seed=seed)[1]

    first = targets(7, 0)
    targets(2, 1), targets(60, 0)
    assert torch.equal(targets(7, 0), first)
    assert not torch.equal(targets(7, 1), first)
    assert not torch.equal(targets(8, 0), first)


def test_a_second_pass_has_another_order() -> None:
    corpus = corpus_of(1000)
    first = corpus.train_batch(0, batch_size=100, seq_len=10, seed=0)[1]
    second = corpus.train_batch(1, batch_size=100, seq_len=10, seed=0)[1]
    assert not torch.equal(first, second)
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist())


def test_validation_sequences_are_distinct_and_spread_out() -> None:
    corpus = corpus_of(1000, 200)
    batches = list(corpus.validation_batches(num_sequences=5, batch_size=2, seq_len=10))
    assert [len(targets) for _, targets in batches] == [2, 2, 1]
    assert torch.cat([t for _, t in batches])[:, 0].tolist() == [0, 40, 80, 120, 160]
    everything = corpus.validation_batches(num_sequences=512, batch_size=64, seq_len=10)
    assert torch.cat([t for _, t in everything]).flatten().tolist() == list(range(200))


# -- what is said


def test_a_budget_larger_than_the_text_is_said() -> None:
    corpus = corpus_of(1000)
    assert repetition(corpus, 1000) is None
    said = repetition(corpus, 2500)
    assert said is not None
    assert re.search(
        r"data repeats: .* 2,500 .* 1,000 tokens \(2.5 passes\), .*scaling fit.* not valid", said
    )


def write_parquet(path: Path) -> None:
    pl.DataFrame({"id": [1], "body": ["x"]}).write_parquet(path)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.txt": (lambda p: p.write_bytes(b""), r"empty.txt is empty, so there is nothing to train on."),
    "nul.txt": (
        lambda p: p.write_bytes(b"ab\0cd"),
        r"nul.txt is not text: it has a NUL byte at 2. Give a text",
    ),
    "latin.txt": (
        lambda p: p.write_bytes(b"caf\xe9 "),
        r"latin.txt is not text: byte 3 is not UTF-8. Give a",
    ),
    "short.txt": (
        lambda p: p.write_text("x" * 100),
        r"short.txt has 100 tokens, and the 5% kept for validation do not fill one sequence of 16. Give 320",
    ),
    "key.jsonl": (
        lambda p: p.write_text('{"text": "fine"}\n{"body": "x"}\n'),
        r"Line 2 of .*key.jsonl has no text under the key 'text'. Give each line as",
    ),
    "list.jsonl": (
        lambda p: p.write_text("[1]\n"),
        r"Line 1 of .*list.jsonl has no text under the key 'text'",
    ),
    "broken.jsonl": (
        lambda p: p.write_text('{"text": "fine"}\n\n{"text": \n'),
        r"Line 3 of .*broken.jsonl is not JSON: .* Mend or remove that line.",
    ),
    "column.parquet": (
        write_parquet,
        r"column.parquet has no text column 'text'; its columns are id, body. Rename the column",
    ),
    "broken.parquet": (
        lambda p: p.write_bytes(b"not parquet at all"),
        r"broken.parquet cannot be read as Parquet: .* Write it again, or leave it out.",
    ),
    "empty.bin": (
        lambda p: p.write_bytes(b""),
        r"empty.bin is not a file of uint16 tokens: .*empty file. Write",
    ),
    "odd.bin": (
        lambda p: p.write_bytes(b"abc"),
        r"odd.bin is not a file of uint16 tokens: .* Write the ids as",
    ),
    "wide.npy": (
        lambda p: np.save(p, np.zeros(9, dtype=np.int64)),
        r"wide.npy holds int64 of shape \(9,\), not one row of uint16 tokens. Write the ids",
    ),
    "broken.npy": (
        lambda p: p.write_bytes(b"abcdef"),
        r"broken.npy is not a file of uint16 tokens: .* Write",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    write, message = BAD_FILES[name]
    write(tmp_path / name)
    with pytest.raises(CorpusError, match=message):
        load(tmp_path / name)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"No file, folder or match for a glob is at '.*nowhere'. Check the path"
    ):
        load(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"The folder .* has no files in it. Give a folder, file or glob"):
        load(tmp_path)


def test_ids_outside_of_the_vocabulary_are_refused(tmp_path: Path) -> None:
    np.arange(4000, dtype="<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(
        CorpusError, match=r"token id 3999, which is outside of vocab_size = 3999. Give vocab_size=4000"
    ):
        load(tmp_path / "a.bin", vocab_size=3999)


def test_a_vocabulary_for_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(
        CorpusError, match=r"vocab_size = 300 was given for .*, which is text .* Leave vocab_size out"
    ):
        load(tmp_path / "a.txt", vocab_size=300)


def test_mixed_text_and_tokens_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    np.arange(4000, dtype="<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(
        CorpusError, match=r"Token files \(.bin, .npy\) and .*a.txt are mixed. Give only one kind"
    ):
        load(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    path.chmod(0)
    with pytest.raises(CorpusError, match=r"a.txt cannot be read: Permission denied. Check its permissions."):
        load(path)
