"""Images that are tested on, but never trained on: users that a split leaves out, and other conditions."""
import pytest

from groundwork.errors import InputError
from microdoppler.data.other_images import find_condition, find_unseen_users
from microdoppler.data.split_file import SplitOptions, open_split
from microdoppler.simulate.dataset import main as simulate


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    root = tmp_path_factory.mktemp("walkers")
    simulate(root, num_users=4, images_per_user=24, image_size=32)
    return root


def options(**given):
    return SplitOptions(images_per_user_train=8, **given)


def test_no_image_of_a_user_who_is_left_out_is_in_the_split(walkers, tmp_path):
    opened = open_split(tmp_path / "data_split.json", walkers, options(leave_out_users=(4, 2)))
    assert opened.split.users == [1, 3] and opened.split.settings.num_users == 2
    assert any("not used, as leave_out_users is 2 4: ID_2, ID_4" in line for line in opened.lines)
    again = open_split(tmp_path / "data_split.json", walkers, options(leave_out_users=(2, 4))).split
    assert again == opened.split and again.identity() == opened.split.identity()
    assert open_split(tmp_path / "data_split.json", walkers, SplitOptions()).split == again
    with pytest.raises(InputError, match=r"leave_out_users 2 4 \(now 2\)"):
        open_split(tmp_path / "data_split.json", walkers, options(leave_out_users=(2,)))


def test_a_split_that_leaves_out_nobody_is_the_same_as_before_there_was_a_choice(walkers, tmp_path):
    split = open_split(tmp_path / "data_split.json", walkers, options()).split
    assert "leave_out_users" not in split.identity()
    assert find_unseen_users(walkers, split, tmp_path / "unseen") is None


def test_unseen_users_have_their_images_and_passes(walkers, tmp_path):
    split = open_split(tmp_path / "data_split.json", walkers, options(leave_out_users=(2, 4))).split
    unseen = find_unseen_users(walkers, split, tmp_path / "unseen")
    assert list(unseen.images) == [2, 4] and all(len(own) == 24 for own in unseen.images.values())
    everyone = open_split(tmp_path / "all" / "data_split.json", walkers, options()).overlaps
    paths = [path for own in unseen.images.values() for path in own]
    assert [unseen.passes[path] for path in paths] == everyone.pass_names(paths)


@pytest.mark.parametrize("left_out, words", [((9,), "9: no such user"), ((1, 2, 3, 4), "all users")])
def test_impossible_choices_are_refused(walkers, tmp_path, left_out, words):
    with pytest.raises(InputError, match=words):
        open_split(tmp_path / "data_split.json", walkers, options(leave_out_users=left_out))


def test_another_condition_has_its_images_and_passes(walkers, tmp_path):
    split = open_split(tmp_path / "data_split.json", walkers, options(leave_out_users=(2, 4))).split
    simulate(tmp_path / "bag", num_users=3, images_per_user=6, image_size=32, seed=5)
    found = find_condition(tmp_path / "bag", walkers, split, tmp_path / "cache")
    assert list(found.images) == [1, 3] and all(len(own) == 6 for own in found.images.values())
    assert all((found.root / path).is_file() and found.passes[path] for own in found.images.values() for path in own)


def test_a_condition_that_is_none_is_refused(walkers, tmp_path):
    split = open_split(tmp_path / "data_split.json", walkers, options()).split
    simulate(tmp_path / "bag", num_users=3, images_per_user=6, image_size=32)
    for root, words in ((walkers, "is the data_path"), (tmp_path / "bag", "lacks ID_4"),
                        (tmp_path / "no", "no folder")):
        with pytest.raises(InputError, match=words):
            find_condition(root, walkers, split, tmp_path / "cache")
