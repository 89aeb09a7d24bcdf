"""A study that is also tested on other conditions and on unseen persons, and its learning curve."""
import json
from dataclasses import replace

import numpy as np
import pytest
from test_classify import config, write_users  # noqa: F401  (a fixture)

import classify
from groundwork.errors import InputError
from microdoppler.pipeline.classification import run_arms


@pytest.fixture
def four_users(config, tmp_path):       # noqa: F811
    write_users(tmp_path / "data", [4], 12, seed=4)
    return replace(config, num_users=0, leave_out_users=(4,), classifier_seeds=1)


def test_every_arm_is_tried_under_other_conditions_and_on_unseen_persons(four_users, tmp_path, capsys):
    bag = write_users(tmp_path / "Bag", range(1, 4), 5, seed=8)
    first = classify.main(four_users, conditions=(bag,))
    printed = capsys.readouterr().out
    folder = four_users.results_folder / "classify"
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "Another condition: Bag" in html and "Unseen persons" in html and "rank-1 in %" in printed
    assert "unknown" in printed      # rank-1 of a single unseen person with a single pass
    of_bag = first["conditions"]["Bag"]
    assert of_bag["num_test"] == 15
    assert [arm["name"] for arm in of_bag["arms"]] == [arm["name"] for arm in first["arms"]]
    for arm in first["arms"]:
        assert set(arm["unseen"]) == {"rank_1", "eer", "open_set_auroc"}
    stored = next((folder / "predictions").glob("*.npz"))
    with np.load(stored) as arrays:
        assert arrays["condition Bag"].shape == (15, 3)
    again = classify.main(four_users, conditions=(bag,))
    assert json.dumps(again) == json.dumps(first)       # the same from the stored runs, to the bit


def test_the_networks_do_not_depend_on_what_else_they_are_tried_on(four_users, tmp_path):
    bag = write_users(tmp_path / "Bag", range(1, 4), 5, seed=8)
    alone, tried = (run_arms(replace(four_users, results_folder=tmp_path / name), (), conditions=conditions).runs
                    for name, conditions in (("alone", ()), ("tried", (bag,))))
    for one, other in zip(alone, tried):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert other.unseen == pytest.approx(one.unseen, nan_ok=True)
        assert not one.conditions and set(other.conditions) == {"Bag"}


def test_a_condition_must_have_the_users(four_users, tmp_path):
    with pytest.raises(InputError, match="lacks ID_3"):
        classify.main(four_users, conditions=(write_users(tmp_path / "Bag", [1, 2], 5, seed=8),))
