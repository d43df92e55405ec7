"""Settings from text: each type, each refusal, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from profiler.errors import InvalidValueError, UnknownNameError
from profiler.workload import apply_settings, check_preset, load_workload, parse_value, workload_names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    d_model: int = 64
    learning_rate: float = 0.1
    budgets: tuple[int, ...] = (1, 2)
    compiled: bool = False
    data: str | None = None
    clip: float | None = 1.0
    kind: Literal["a", "b"] = "a"
    heads: Literal[1, 2, 4] = 1

    def __post_init__(self) -> None:
        if self.d_model < 1:
            raise InvalidValueError(f"d_model is {self.d_model}")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("d_model", "128", 128),
        ("d_model", "131_072", 131072),
        ("d_model", "1e6", 1_000_000),
        ("d_model", "2.0", 2),
        ("learning_rate", "3e-3", 0.003),
        ("learning_rate", "1", 1.0),
        ("budgets", "64+128+1e3", (64, 128, 1000)),
        ("budgets", "64,128", (64, 128)),
        ("budgets", "64", (64,)),
        ("budgets", " 64 + 128 ", (64, 128)),
        ("compiled", "true", True),
        ("compiled", "Yes", True),
        ("compiled", "0", False),
        ("data", "corpus.txt", "corpus.txt"),
        ("data", "none", None),
        ("clip", "null", None),
        ("clip", "0.5", 0.5),
        ("kind", "b", "b"),
        ("heads", "4", 4),
    ],
)
def test_texts_become_values(key: str, text: str, value: object):
    found = getattr(apply_settings(_Settings(), {key: text}), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "d_model",
            "big",
            r"The setting d_model = 'big' is not a whole number\. Give it as in '--set d_model=64'\.",
        ),
        ("d_model", "1.5", r"d_model = '1\.5' is not a whole number"),
        ("d_model", "inf", r"d_model = 'inf' is not a whole number"),
        ("d_model", "", r"d_model = '' is not a whole number"),
        ("d_model", "9" * 5000, r"is not a whole number"),
        ("learning_rate", "fast", r"= 'fast' is not a number\. Give it as in '--set learning_rate=0\.003'\."),
        ("learning_rate", "nan", r"learning_rate = 'nan' is not a number"),
        ("learning_rate", "-inf", r"learning_rate = '-inf' is not a number"),
        (
            "compiled",
            "maybe",
            r"compiled = 'maybe' is not true or false\. Give it as in '--set compiled=true'\.",
        ),
        ("budgets", "64+x", r"budgets = 'x' is not a whole number"),
        ("d_model", "0", r"^d_model is 0$"),
    ],
)
def test_texts_of_the_wrong_type_are_refused(key: str, text: str, message: str):
    with pytest.raises(InvalidValueError, match=message):
        apply_settings(_Settings(), {key: text})


def test_an_unknown_setting_suggests_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"There is no setting named 'dmodel'\. Did you mean 'd_model'\?"
    ) as caught:
        apply_settings(_Settings(), {"dmodel": "1"})
    assert caught.value.nearest == "d_model"


@pytest.mark.parametrize(("key", "text"), [("kind", "c"), ("heads", "3")])
def test_a_choice_that_is_none_is_refused(key: str, text: str):
    with pytest.raises(UnknownNameError, match=f"There is no value of {key} named '{text}'"):
        apply_settings(_Settings(), {key: text})


def test_all_or_nothing():
    before = _Settings()
    with pytest.raises(InvalidValueError):
        apply_settings(before, {"d_model": "128", "learning_rate": "fast"})
    assert before == _Settings()
    assert apply_settings(before, {}) == before


def test_old_style_optionals_are_read_too():
    assert parse_value("x", "3", __import__("typing").Optional[int]) == 3


def test_presets_and_workloads_by_name():
    assert check_preset("smoke") == "smoke"
    with pytest.raises(
        UnknownNameError,
        match=r"no preset named 'gpus'\. Did you mean 'gpu'\? Known: cpu, gpu",
    ):
        check_preset("gpus")
    assert "lm" in workload_names()
    with pytest.raises(UnknownNameError, match=r"There is no workload named 'ml'"):
        load_workload("ml")
