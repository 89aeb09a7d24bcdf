"""Synthetic sets that are trainings of one generator: by which names they are found, and which are refused."""
import json
from pathlib import Path

import pytest

from groundwork.errors import InputError
from microdoppler.data.trainings import check_trainings, set_and_training


def sets_in(folder: Path, *names: str, **manifest) -> dict[int, dict[str, Path]]:
    """One fold with sets of these names; weights of their own unless the manifest says which."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps(
            {"weights": f"of {name}", "step": 7, "cond_scale": 1.5, "seed": name, **manifest}))
    return {0: {name: folder / name for name in names}}


def test_the_end_of_a_folders_name_says_which_training_it_is():
    assert set_and_training("chosen_training2") == ("chosen", 2)
    assert set_and_training("fold_0/a_training1_training10") == ("fold_0/a_training1", 10)
    for name in ("chosen", "chosen_training", "chosen_training0", "chosen_training01", "_training1", "a_training1_b"):
        assert set_and_training(name) == (name, 0)


def test_what_is_comparable_is_accepted(tmp_path):
    check_trainings({0: {}}, 3)
    check_trainings(sets_in(tmp_path / "a", "x", "y", weights=""), 1)               # of one training, nothing is asked
    check_trainings(sets_in(tmp_path / "b", "x_training4", weights=""), 1)
    check_trainings(sets_in(tmp_path / "c", "x_training2", "x_training1", "y_training1", "y_training2"), 4)


@pytest.mark.parametrize("names, seeds, said", [
    (["x_training1", "x_training2", "x_training3"], 2, "is 2, and x has 3 trainings.*--seeds 3"),
    (["x_training1", "x_training2"], 3, "expected a multiple of 2.*--seeds 4"),
    (["x", "x_training2"], 2, "expected a number for every training of x: name the first folder x_training<number>"),
    (["y", "x_training1", "x_training2"], 2, "2 trainings of x and 1 of y; expected as many of every set")])
def test_sets_that_are_not_used_equally_often_are_refused(tmp_path, names, seeds, said):
    with pytest.raises(InputError, match=said):
        check_trainings(sets_in(tmp_path, *names), seeds)


def test_trainings_have_weights_of_their_own_and_the_same_constants(tmp_path):
    with pytest.raises(InputError, match="x_training2 and .*x_training1 were made by the same weights"):
        check_trainings(sets_in(tmp_path / "a", "x_training1", "x_training2", weights="same"), 2)
    with pytest.raises(InputError, match="which weights made .*x_training1 is unknown"):
        check_trainings(sets_in(tmp_path / "b", "x_training1", "x_training2", weights=None), 2)
    for name, value in (("cond_scale", 3.0), ("step", 9)):
        sets = sets_in(tmp_path / name, "x_training1", "y_training1", "y_training2")
        sets[0] |= sets_in(tmp_path / name, "x_training2", **{name: value})[0]
        with pytest.raises(InputError, match=f"x_training2 was made with other constants than .*x_training1: {name} "):
            check_trainings(sets, 2)
