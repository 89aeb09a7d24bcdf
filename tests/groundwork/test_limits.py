"""Limits of a dataclass's fields, and the dataclass to and from JSON."""
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwork.errors import InputError
from groundwork.limits import Betas, Count, Interval, Multiples, Share, check_limits, from_plain, to_plain


@dataclass(frozen=True)
class Constants:
    folder: Path = Path("here")
    names: Path | None = None
    count: Count = 3
    share: Share = 0.5
    is_on: bool = True
    betas: Betas = (0.9, 0.99)
    interval: Interval = (0.0, 1.0)
    mults: Multiples = (1, 2)


@pytest.mark.parametrize("change, message", [
    ({"count": 0}, "count is 0; expected 1 … 100 000"), ({"count": 2.5}, "count is 2.5; expected a valid integer"),
    ({"share": float("nan")}, "share is nan; expected 0 … 1"), ({"share": 1.1}, "share is 1.1; expected 0 … 1"),
    ({"betas": (0.9,)}, "betas is (0.9,); expected two numbers"), ({"interval": (0.7, 0.2)}, "interval is (0.7, 0.2)"),
    ({"mults": ()}, "mults is (); expected one to eight numbers"),
    ({"is_on": "perhaps"}, "is_on is 'perhaps'; expected"),
    ({"count": np.int64(3)}, "count is np.int64(3); expected a valid integer"), ({"count": True}, "count is True"),

    ({"share": -1.0, "mults": ()}, "share is -1.0")])
def test_the_first_field_outside_its_limits_is_named_with_what_was_expected(change, message):
    with pytest.raises(InputError) as refused:
        check_limits(replace(Constants(), **change))
    assert str(refused.value).startswith(message)


@given(st.builds(Constants, folder=st.just(Path("a/b")), names=st.sampled_from([None, Path("c")]),
                 count=st.integers(1, 100_000), share=st.floats(0, 1), is_on=st.booleans(),
                 betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
                 interval=st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),
                 mults=st.lists(st.integers(1, 64), min_size=1, max_size=8).map(tuple)))
def test_what_is_within_the_limits_survives_json(constants):
    check_limits(constants)
    assert from_plain(json.loads(json.dumps(to_plain(constants))), Constants()) == constants


def test_what_is_missing_is_as_in_the_defaults_and_what_is_unknown_is_left_out():
    defaults = Constants(count=7)
    assert from_plain({"share": 1, "of_a_later_version": [1]}, defaults) == replace(defaults, share=1.0)


def test_any_path_survives_json():
    """A folder's name need not be UTF-8: Python then reads it with lone surrogates."""
    constants = Constants(folder=Path(os.fsdecode(b"/data/caf\xe9")))
    assert from_plain(json.loads(json.dumps(to_plain(constants))), Constants()) == constants


def test_what_is_unknown_need_not_be_json():
    assert from_plain({"of_a_later_version": b"x", 3: {1}}, Constants()) == Constants()


@pytest.mark.parametrize("plain", [[1], None, "x", {"count": b"x"}, {"folder": b"x"}, {"mults": {1}}, {"count": "3"},
                                   {"count": None}, {"count": 2.5}, {"mults": 3}, {"folder": 3},
                                   {"is_on": 1}, {"mults": ["1"]}])
def test_values_of_another_type_are_refused(plain):
    with pytest.raises(InputError):
        from_plain(plain, Constants())
