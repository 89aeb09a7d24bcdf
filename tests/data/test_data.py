"""From folders to ordered, checked images and a split."""
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import find_users, split_of

from groundwork.errors import InputError
from groundwork.images import load_images
from microdoppler.data.recordings import by_names
from microdoppler.data.spectrograms import drop_broken, paths_and_labels
from microdoppler.data.split_settings import SplitSettings
from microdoppler.data.split_file import SplitOptions, open_split


def write_user(root, user, numbers, suffix=".jpg", size=(8, 8)):
    folder = root / f"ID_{user}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", size, (number % 256, user, 0)).save(folder / f"ID{user}_case1_1_Doppler{number}{suffix}")


def settings_for(**changes):
    return SplitSettings(**{"num_users": 2, "images_per_user_train": 5, "strategy": "contiguous", "fold": 0, "guard": 2,
                            "seed": 42} | changes)


def split_at(path, data, **changes):
    """The split at `path`, opened with the settings that are changed so."""
    return open_split(path, data, SplitOptions.of(settings_for(**changes))).split


# ---------------------------------------------------------------------------------------------------- spectrograms

def test_users_in_number_order_and_images_in_time_order(tmp_path):
    for user in (10, 2, 1, 3, 4, 5, 6, 7, 8, 9):
        write_user(tmp_path, user, [10, 9, 100, 1])
    users = find_users(tmp_path)
    assert list(users) == list(range(1, 11)) and list(find_users(tmp_path, 3)) == [1, 2, 3]
    assert [name.rsplit("Doppler")[1] for name in users[2]] == ["1.jpg", "9.jpg", "10.jpg", "100.jpg"]


def test_suffixes_in_any_case_and_other_files_ignored(tmp_path):
    write_user(tmp_path, 1, [1], ".JPG")
    write_user(tmp_path, 1, [2], ".Jpeg")
    write_user(tmp_path, 1, [3], ".PNG")
    (tmp_path / "ID_1" / "notes.txt").write_text("x")
    assert len(find_users(tmp_path, 1)[1]) == 3


def test_users_keep_the_numbers_of_their_folders_and_gaps_are_allowed(tmp_path):
    for user in (9, 3, 5):
        write_user(tmp_path, user, [1])
    assert list(find_users(tmp_path)) == [3, 5, 9] and list(find_users(tmp_path, 2)) == [3, 5]
    with pytest.raises(InputError, match="num_users is 4, but .* holds 3: ID_3, ID_5, ID_9"):
        find_users(tmp_path, 4)


def test_absent_folders_and_folders_without_users_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        find_users(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no folder of a user; .* found nothing"):
        find_users(tmp_path)
    (tmp_path / "person1").mkdir()
    with pytest.raises(InputError, match="no image .* in person1"):
        find_users(tmp_path)


def test_labels_are_the_places_of_the_users():
    paths, labels = paths_and_labels({1: ["a"], 31: ["b", "c"]})
    assert (paths, labels.tolist()) == (["a", "b", "c"], [0, 1, 1])


def test_grey_images_become_rgb(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert load_images(tmp_path, ["grey.png"], 8).tolist() == [[[[77] * 8] * 8] * 3]


def test_few_broken_images_are_skipped_by_name_and_many_are_an_error(tmp_path):
    write_user(tmp_path, 1, range(1, 101))
    images = find_users(tmp_path, 1)
    broken = tmp_path / images[1][3]
    broken.write_bytes(broken.read_bytes()[:40])
    (tmp_path / images[1][7]).write_text("no image")
    whole, warnings = drop_broken(tmp_path, images)
    assert len(whole[1]) == 98 and images[1][3] in warnings[0] and images[1][7] in warnings[1]
    for name in images[1][:5]:
        (tmp_path / name).write_text("no image")
    with pytest.raises(InputError, match="6 of 100"):
        drop_broken(tmp_path, images)


@given(st.lists(st.integers(0, 10 ** 6), min_size=1, unique=True))
def test_time_order_is_the_order_of_the_numbers(numbers):
    [recording] = by_names([f"ID_1/ID1_case1_1_Doppler{n}.jpg" for n in numbers])
    assert [int(name[24:-4]) for name in recording.images] == sorted(numbers)


# ---------------------------------------------------------------------------------------------------- split

def names_for(counts):
    return {user: [f"ID_{user}/Doppler{i}.jpg" for i in range(count)] for user, count in counts.items()}


@given(st.integers(1, 40), st.integers(0, 8), st.sampled_from([0, 1, 2]), st.integers(0, 60))
@settings(max_examples=200)
def test_contiguous_parts_are_disjoint_and_a_guard_apart(train, guard, fold, extra):
    images = names_for({1: train + 2 * guard + 2 + extra})
    split = split_of(images, settings_for(num_users=1, images_per_user_train=train, guard=guard, fold=fold))
    trained = sorted(images[1].index(name) for name in split.train_images[1])
    tested = [images[1].index(name) for name in split.test_images[1]]
    assert trained == list(range(trained[0], trained[0] + train))
    assert min(abs(a - b) for a in (trained[0], trained[-1]) for b in tested) > guard
    assert not set(trained) & set(tested)
    left_out = len(images[1]) - train - len(tested)
    assert left_out <= 2 * guard


def test_folds_are_the_thirds():
    images = names_for({1: 150})
    starts = []
    for fold in (0, 1, 2):
        split = split_of(images, settings_for(num_users=1, images_per_user_train=50, fold=fold))
        starts.append(images[1].index(split.train_images[1][0]))
    assert starts == [0, 50, 100]


def test_random_strategy_repeats_earlier_experiments():
    """Names sorted as strings, permuted by RandomState(seed + user), the first ones trained on; written out slowly."""
    images = names_for({1: 12, 7: 12})
    split = split_of(images, settings_for(strategy="random"))
    for user in (1, 7):
        names = sorted(images[user])
        order = np.arange(12)
        np.random.RandomState(42 + user).shuffle(order)
        assert split.train_images[user] == [names[i] for i in order[:5]]
        assert split.test_images[user] == [names[i] for i in order[5:]]


def test_users_with_too_few_images_are_named_with_counts():
    with pytest.raises(InputError, match="ID_2 has 5"):
        split_of(names_for({1: 20, 2: 5}), settings_for())


def test_the_split_is_made_once_and_read_afterwards(tmp_path):
    for user in (1, 2):
        write_user(tmp_path / "data", user, range(1, 16))
    path = tmp_path / "cache" / "data_split.json"
    made = split_at(path, tmp_path / "data")
    write_user(tmp_path / "data", 1, [99])          # a later image changes nothing
    read = open_split(path, tmp_path / "data", SplitOptions())
    assert read.split == made and "1 images that are not in the split are not used" in read.lines[0]
    entry = json.loads(path.read_text())["users"]["2"]
    assert entry["label"] == 1 and entry["train_images"][0] == "ID_2/ID2_case1_1_Doppler1.jpg"
    assert json.loads(path.read_text())["strategy"] == "contiguous"


def test_a_split_of_other_settings_or_other_data_is_refused(tmp_path):
    for user in (1, 2):
        write_user(tmp_path / "data", user, range(1, 16))
    path = tmp_path / "data_split.json"
    split = split_at(path, tmp_path / "data")
    with pytest.raises(InputError, match="split_fold 0 .now 1."):
        split_at(path, tmp_path / "data", fold=1)
    assert split_at(path, tmp_path / "data", seed=99) == split     # of no use there
    (tmp_path / "data" / split.test_images[1][0]).unlink()
    with pytest.raises(InputError, match="lacks images that"):
        split_at(path, tmp_path / "data")


def test_a_random_split_depends_on_its_seed_only(tmp_path):
    for user in (1, 2):
        write_user(tmp_path / "data", user, range(1, 16))
    path = tmp_path / "data_split.json"
    split = split_at(path, tmp_path / "data", strategy="random")
    assert split_at(path, tmp_path / "data", strategy="random", fold=2, guard=0) == split
    with pytest.raises(InputError, match="seed 42 .now 1."):
        split_at(path, tmp_path / "data", strategy="random", seed=1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"users": {"x": 1}}', '{"users": {}, "odd": 1}'])
def test_a_split_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "data_split.json"
    path.write_text(content)
    with pytest.raises(InputError, match="data_split"):
        split_at(path, tmp_path)


@pytest.mark.parametrize("changes", [{"strategy": "odd"}, {"fold": 3}, {"guard": -1}, {"images_per_user_train": 0},
                                     {"num_users": 0}])
def test_nonsense_settings_are_refused(changes):
    with pytest.raises(InputError):
        settings_for(**changes)
