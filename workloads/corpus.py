"""Training text as one long stream of token ids, and batches cut from it by position.

Without a path, the text is the source of the running interpreter's standard library: about 10 MB that every
user already has, so nothing is downloaded or redistributed (PSF-2.0). It differs between Python versions,
which is why the stream's hash is part of a run's identity.

Text is read as bytes: 256 ids, no tokenizer, and losses in nats per byte that compare across texts. One more
id marks the beginning of each sequence. Files that are tokens already (`.bin` as nanoGPT writes them, `.npy`)
are mapped into memory, not read.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from profiler.errors import CorpusError

Tokens = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

VALIDATION_FRACTION = 0.05
TEXT_KEY = "text"
TOKEN_SUFFIXES = (".bin", ".npy")
# Tests and tables of characters: large, repetitive, and not installed everywhere.
STDLIB_EXCLUDED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "turtledemo"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A stream of tokens, split once: the first 95 % train, the last 5 % validate.

    Attributes:
        train: Ids of the training part, shape (tokens,).
        validation: Ids of the validation part, shape (tokens,).
        num_ids: Ids that the stream may hold: 0 .. num_ids - 1.
        sha256: Hash of the whole stream, bytes as they are or ids as little-endian uint16.
        num_files: Files that were read.
        description: What the text is, for people.
    """

    train: Tokens
    validation: Tokens
    num_ids: int
    sha256: str
    num_files: int
    description: str

    @property
    def bos(self) -> int:
        """The id that begins each sequence; no id of the stream."""
        return self.num_ids

    @property
    def vocab_size(self) -> int:
        """Ids that a model of this corpus must know: those of the stream, and `bos`."""
        return self.num_ids + 1

    def train_batch(
        self, position: int, *, batch_size: int, seq_len: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """The training batch at a position: a pure function of position and seed.

        The training part is cut into windows of seq_len tokens, shuffled by the seed; a window is not seen
        again before all others were, and then in a new order. Being a function of the position, and not of
        what was read before, is what lets a branch read on where its trunk stopped, and the trunk as well.

        Args:
            position: Number of batches before this one.
            batch_size: Sequences.
            seq_len: Tokens of each.
            seed: Seeds the order of the windows.

        Returns:
            Inputs and targets, int64 of shape (batch_size, seq_len): each target is the token after its
            input, and the first input of each sequence is `bos`.
        """
        windows = windows_at(
            position, batch_size=batch_size, num_windows=len(self.train) // seq_len, seed=seed
        )
        return self._batch(self.train, [window * seq_len for window in windows], seq_len)

    def validation_batches(
        self, *, num_sequences: int, batch_size: int, seq_len: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation sequences, always the same ones, spread evenly over the validation part.

        Fewer than `num_sequences` if the part holds fewer; never one token twice. The last batch may be
        smaller than the others.
        """
        num_windows = len(self.validation) // seq_len
        count = min(num_sequences, num_windows)
        starts = [index * num_windows // count * seq_len for index in range(count)]
        for first in range(0, count, batch_size):
            yield self._batch(self.validation, starts[first : first + batch_size], seq_len)

    def _batch(self, stream: Tokens, starts: Sequence[int], seq_len: int) -> tuple[Tensor, Tensor]:
        targets = np.stack([stream[start : start + seq_len] for start in starts]).astype(np.int64)
        inputs = np.concatenate((np.full((len(starts), 1), self.bos), targets[:, :-1]), axis=1)
        return torch.from_numpy(inputs), torch.from_numpy(targets)


def load_corpus(path: str | None, *, seq_len: int, vocab_size: int | None = None) -> Corpus:
    """Read a corpus.

    Args:
        path: None for the standard library's source; else a text file, `.jsonl` or `.parquet` (their key or
            column `text`), a token file `.bin` or `.npy` (uint16), a folder, or a glob of any of these.
            Several files follow each other in the order of their paths.
        seq_len: Tokens of a sequence; both parts must hold at least one.
        vocab_size: Ids of a token file; None takes one more than its largest.

    Raises:
        CorpusError: The path does not exist, or what it holds is empty, no text, damaged or too short.
    """
    files = _stdlib_files() if path is None else _files_at(path)
    name = f"Python {platform.python_version()} standard library source" if path is None else str(path)
    if any(file.suffix in TOKEN_SUFFIXES for file in files):
        stream, num_ids = _read_tokens(files, vocab_size)
    elif vocab_size is not None:
        raise CorpusError(
            f"vocab_size = {vocab_size} was given for {name}, which is text and is read as 256 bytes. "
            "Leave vocab_size out, or give a token file (.bin, .npy)."
        )
    else:
        stream, num_ids = np.frombuffer(b"".join(_read_text(file) for file in files), dtype=np.uint8), 256
    return _split(stream, name=name, num_ids=num_ids, num_files=len(files), seq_len=seq_len)


def windows_at(position: int, *, batch_size: int, num_windows: int, seed: int) -> list[int]:
    """Which windows make the batch at a position: as `Corpus.train_batch` says."""
    rows = range(position * batch_size, (position + 1) * batch_size)
    return [int(_window_order(num_windows, seed, row // num_windows)[row % num_windows]) for row in rows]


def repetition(corpus: Corpus, tokens: int) -> str | None:
    """What to say if `tokens` of training are more than the corpus holds, or None if they are not."""
    if tokens <= len(corpus.train):
        return None
    return (
        f"The data repeats: the largest token budget is {tokens:,} and the training text has "
        f"{len(corpus.train):,} tokens ({tokens / len(corpus.train):.1f} passes), so a scaling fit of these "
        "runs is not valid. Give more data with '--set data=PATH', or smaller token_budgets."
    )


def _split(stream: Tokens, *, name: str, num_ids: int, num_files: int, seq_len: int) -> Corpus:
    if len(stream) == 0:
        raise CorpusError(f"{name} is empty, so there is nothing to train on. Give a path with text in it.")
    boundary = len(stream) - int(len(stream) * VALIDATION_FRACTION)
    if len(stream) - boundary < seq_len:
        raise CorpusError(
            f"{name} has {len(stream)} tokens, and the {VALIDATION_FRACTION:.0%} kept for validation do not "
            f"fill one sequence of {seq_len}. Give {round(seq_len / VALIDATION_FRACTION)} tokens or more, "
            "or a smaller seq_len."
        )
    return Corpus(
        train=stream[:boundary],
        validation=stream[boundary:],
        num_ids=num_ids,
        sha256=hashlib.sha256(np.ascontiguousarray(stream).data).hexdigest(),
        num_files=num_files,
        description=name,
    )


@functools.lru_cache(maxsize=2)
def _window_order(num_windows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the windows in one pass; two are kept, for a batch that spans two passes."""
    return np.random.default_rng((seed, epoch)).permutation(num_windows)


def _stdlib_files() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.rglob("*.py") if STDLIB_EXCLUDED.isdisjoint(p.relative_to(root).parts))
    if not files:
        raise CorpusError(
            f"This Python has no standard library source in {root}, which is the default text. "
            "Give a text of your own with '--set data=PATH'."
        )
    return files


def _files_at(path: str) -> list[Path]:
    """The files that a path, a folder or a glob stands for, sorted; hidden ones are left out."""
    root = Path(path)
    if root.is_file():
        return [root]
    if root.is_dir():
        found = [p for p in root.rglob("*") if not any(part[0] == "." for part in p.relative_to(root).parts)]
    else:
        found = [Path(p) for p in glob.glob(path, recursive=True)]  # noqa: PTH207 (Path.glob refuses absolute)
    files = sorted(p for p in found if p.is_file())
    if not files and root.is_dir():
        raise CorpusError(f"The folder {path} has no files in it. Give a folder, file or glob with text.")
    if not files:
        raise CorpusError(
            f"No file, folder or match for a glob is at {path!r}. Check the path given as data."
        )
    return files


def _read_text(path: Path) -> bytes:
    """The text of one file, as UTF-8 bytes."""
    if path.suffix == ".jsonl":
        return "\n".join(_jsonl_texts(path)).encode()
    if path.suffix == ".parquet":
        return "\n".join(_parquet_texts(path)).encode()
    return _read_utf8(path).encode()


def _read_utf8(path: Path) -> str:
    advice = "Give a text file, or a glob that leaves this one out, such as 'folder/**/*.txt'."
    try:
        data = path.read_bytes()
        if b"\0" in data:
            raise CorpusError(f"{path} is not text: it has a NUL byte at {data.index(0)}. {advice}")
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not text: byte {error.start} is not UTF-8. {advice}") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error


def _jsonl_texts(path: Path) -> Iterator[str]:
    lines = _read_utf8(path).split("\n")  # splitlines() would also cut at U+2028
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _jsonl_text(path, number, line)


def _jsonl_text(path: Path, number: int, line: str) -> str:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise CorpusError(
            f"Line {number} of {path} is not JSON: {error}. Mend or remove that line."
        ) from error
    text = record.get(TEXT_KEY) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise CorpusError(
            f"Line {number} of {path} has no text under the key {TEXT_KEY!r}. "
            f'Give each line as {{"{TEXT_KEY}": "..."}}.'
        )
    return text


def _parquet_texts(path: Path) -> list[str]:
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read as Parquet: {error}. Write it again, or leave it out."
        ) from error
    if schema.get(TEXT_KEY) != pl.String:
        raise CorpusError(
            f"{path} has no text column {TEXT_KEY!r}; its columns are {', '.join(schema)}. "
            f"Rename the column that holds the text to {TEXT_KEY!r}."
        )
    return pl.read_parquet(path, columns=[TEXT_KEY])[TEXT_KEY].drop_nulls().to_list()


def _read_tokens(files: Sequence[Path], vocab_size: int | None) -> tuple[npt.NDArray[np.uint16], int]:
    """The ids of token files, and how many ids there may be."""
    other = next((file for file in files if file.suffix not in TOKEN_SUFFIXES), None)
    if other is not None:
        raise CorpusError(
            f"Token files ({', '.join(TOKEN_SUFFIXES)}) and {other} are mixed. Give only one kind at a time."
        )
    shards = [_map_tokens(file) for file in files]
    stream = shards[0] if len(shards) == 1 else np.concatenate(shards)
    largest = int(stream.max(initial=0))
    if vocab_size is not None and largest >= vocab_size:
        raise CorpusError(
            f"{files[0]} holds the token id {largest}, which is outside of vocab_size = {vocab_size}. "
            f"Give vocab_size={largest + 1} or more, or leave it out."
        )
    return stream, vocab_size or largest + 1


def _map_tokens(path: Path) -> npt.NDArray[np.uint16]:
    try:
        array = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, "<u2", mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise CorpusError(
            f"{path} is not a file of uint16 tokens: {error}. Write the ids as uint16."
        ) from error
    if array.dtype != np.uint16 or array.ndim != 1:
        raise CorpusError(
            f"{path} holds {array.dtype} of shape {array.shape}, not one row of uint16 tokens. "
            "Write the ids as one flat uint16 array."
        )
    return array
