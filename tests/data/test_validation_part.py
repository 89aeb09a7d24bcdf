"""The validation part of a split, on which constants are chosen: disjoint from all else, guarded, and only where there
are enough images."""
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import split_of

from groundwork.errors import InputError
from microdoppler.data.audit import audit_split
from microdoppler.data.overlap import find_overlaps
from microdoppler.data.recordings import Recording, all_images
from microdoppler.data.split import Split, describe, split_images
from microdoppler.data.split_file import SplitOptions, open_split
from microdoppler.data.split_settings import ALL_BUT_TEST, SplitSettings
from vae.train import read_split


def settings_for(**changes):
    return SplitSettings(**{"num_users": 1, "images_per_user_train": 50, "strategy": "contiguous", "fold": 0,
                            "guard": 3, "seed": 42, "validation": 0.2} | changes)


def names_for(counts):
    return {user: [f"ID_{user}/{i}.png" for i in range(count)] for user, count in counts.items()}


def as_recordings(*sizes):
    return {1: [Recording(f"r{index}", [f"ID_1/r{index}_{i}.png" for i in range(size)], list(range(size)))
                for index, size in enumerate(sizes)]}


def numbers(split: Split):
    """The places of a user's training, validation and test images among all of the user's images."""
    images = all_images(split.recordings[1])
    return tuple([images.index(name) for name in part[1]]
                 for part in (split.train_images, split.validation_images, split.test_images))


def write_noise(root, counts):
    for user, count in counts.items():
        (root / f"ID_{user}").mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng((user, i)).integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"ID_{user}" / f"{i}.png")


def test_the_protocol_of_50_of_150_images_keeps_ten_to_choose_on():
    for fold, start in enumerate((0, 50, 100)):
        train, validation, test = numbers(split_of(names_for({1: 150}), settings_for(fold=fold)))
        assert train == list(range(start, start + 37)) and validation == list(range(start + 40, start + 50))
        without = numbers(split_of(names_for({1: 150}), settings_for(fold=fold, validation=0.0)))
        assert without == (list(range(start, start + 50)), [], test)       # the test set does not depend on it


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 60) | st.just(ALL_BUT_TEST),
       st.sampled_from([0, 1, 2]), st.integers(0, 4), st.floats(0.05, 0.45), st.sampled_from(["contiguous", "random"]))
def test_any_validation_part_is_disjoint_and_another_recording_or_a_guard_apart(sizes, train, fold, guard, share,
                                                                                strategy):
    settings = settings_for(images_per_user_train=train, fold=fold, guard=guard, validation=share, strategy=strategy)
    recordings = as_recordings(*sizes)
    try:
        whole = split_images(recordings, replace(settings, validation=0.0), {1: "ID_1"})
        split = split_images(recordings, settings, {1: "ID_1"})
    except InputError:
        return
    (trained, validated, tested), (run, _, same) = numbers(split), numbers(whole)
    assert tested == same and set(trained) | set(validated) <= set(run) and not set(trained) & set(validated)
    assert validated and 2 * len(trained) > len(run) and len(validated) <= max(1, 2 * round(share * len(run)))
    if strategy == "contiguous":
        recording_of = np.repeat(np.arange(len(sizes)), sizes)
        assert max(trained) < min(validated) and (
            min(validated) - max(trained) > guard or recording_of[max(trained)] != recording_of[min(validated)])
    else:
        assert len(trained) + len(validated) == len(run)


def test_whole_recordings_where_the_run_has_several():
    split = split_images(as_recordings(20, 20, 12, 60), settings_for(images_per_user_train=52), {1: "ID_1"})
    train, validation, _ = numbers(split)
    assert train == list(range(40)) and validation == list(range(40, 52))
    # recordings so long that they would take four times the share: inside one, with a guard
    train, validation, _ = numbers(split_images(as_recordings(30, 22, 60, 60), settings_for(images_per_user_train=52),
                                                {1: "ID_1"}))
    assert train == list(range(39)) and validation == list(range(42, 52))


def test_of_all_but_the_test_images_the_last_are_validated_on():
    train, validation, test = numbers(split_images(
        as_recordings(*[10] * 6), settings_for(images_per_user_train=ALL_BUT_TEST, fold=2), {1: "ID_1"}))
    assert (train, validation, test) == (list(range(30)), list(range(30, 40)), list(range(40, 60)))


def test_a_random_part_depends_on_the_seed_and_leaves_the_test_set_as_it_was():
    random = settings_for(strategy="random")
    first, other = (split_of(names_for({1: 150}), replace(random, seed=seed)) for seed in (1, 2))
    assert len(first.validation_images[1]) == 10 and len(first.train_images[1]) == 40
    assert set(first.validation_images[1]) != set(other.validation_images[1])
    without = split_of(names_for({1: 150}), replace(random, seed=1, validation=0.0))
    assert without.test_images == first.test_images
    assert set(without.train_images[1]) == {*first.train_images[1], *first.validation_images[1]}


@pytest.mark.parametrize("strategy, kept", [("contiguous", 13), ("random", 16)])
def test_a_given_test_set_leaves_validation_to_the_training_images(tmp_path, strategy, kept):
    write_noise(tmp_path / "train", {1: 20})
    write_noise(tmp_path / "test", {1: 9})
    split = open_split(tmp_path / "data_split.json", tmp_path / "train", SplitOptions(
        test_data=tmp_path / "test", split_strategy=strategy, split_guard=3)).split
    assert len(split.test_images[1]) == 9 and len(split.train_images[1]) == kept
    assert len(split.validation_images[1]) == 4 and all(name.startswith("ID_1/") for name in split.validation_images[1])


def test_where_a_user_has_too_few_images_an_open_share_is_none_and_a_given_one_is_refused(tmp_path):
    write_noise(tmp_path / "data", {1: 60, 2: 30})
    options = SplitOptions(images_per_user_train=0.34, split_guard=3)
    opened = open_split(tmp_path / "a" / "data_split.json", tmp_path / "data", options)
    assert opened.split.settings.validation == 0 and opened.split.validation_images == {1: [], 2: []}
    assert any("split_validation 0: ID_2 has too few" in line for line in opened.lines)
    with pytest.raises(InputError, match="split_validation 0.2 leaves too few images to train on: ID_2 keeps 5 of 10"):
        open_split(tmp_path / "b" / "data_split.json", tmp_path / "data", replace(options, split_validation=0.2))
    larger = open_split(tmp_path / "c" / "data_split.json", tmp_path / "data",
                        replace(options, images_per_user_train=0.5))
    assert larger.split.settings.validation == 0.2
    assert "images of each: 9 … 21 to train on, 3 … 6 to validate on, 12 … 27 to test on, 6 left out (" in describe(
        larger.split)


def test_the_share_is_the_same_in_all_folds():
    """Two of three folds have a recording at the end of their run that can be kept whole; the other would need more."""
    write = as_recordings(9, 2, 9, 2, 9, 2, 5)
    found = {fold: split_images(write, settings_for(images_per_user_train=11, fold=fold), {1: "ID_1"})
             for fold in (0, 1, 2)}
    assert all(split.validation_images[1] for split in found.values())
    with pytest.raises(InputError, match="leaves too few"):
        split_images(as_recordings(11, 11, 11, 11), settings_for(images_per_user_train=11, guard=4), {1: "ID_1"})


def test_a_split_keeps_its_validation_part_and_older_ones_have_none(tmp_path):
    write_noise(tmp_path / "data", {1: 90})
    path = tmp_path / "data_split.json"
    made = open_split(path, tmp_path / "data", SplitOptions()).split
    assert len(made.validation_images[1]) == 6 and made.identity()["validation"] == 0.2
    assert open_split(path, tmp_path / "data", SplitOptions()).split == made
    with pytest.raises(InputError, match=r"split_validation 0.2 \(now 0.3\)"):
        open_split(path, tmp_path / "data", SplitOptions(split_validation=0.3))
    older = json.loads(path.read_text())
    del older["validation"], older["users"]["1"]["validation_images"]
    path.write_text(json.dumps(older))
    read = open_split(path, tmp_path / "data", SplitOptions())
    assert read.split.validation_images == {1: []} and read.split.settings.validation == 0 and not read.lines
    assert "validation" not in read.split.identity()        # so that older checkpoints still fit


@pytest.mark.parametrize("image, complaint", [("../secret.png", "no path below"), ("ID_1/0.png", "lists ID_1/0.png tw"),
                                              ("ID_1/none.png", "lacks images"), (7, "no path below")])
def test_a_validation_part_edited_by_hand_is_refused(tmp_path, image, complaint):
    write_noise(tmp_path / "data", {1: 90})
    path = tmp_path / "data_split.json"
    open_split(path, tmp_path / "data", SplitOptions())
    content = json.loads(path.read_text())
    content["users"]["1"]["validation_images"].append(image)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=complaint):
        open_split(path, tmp_path / "data", SplitOptions())


@pytest.mark.parametrize("value", [-0.1, 0.5, "x", True])
def test_impossible_shares_are_refused(value):
    with pytest.raises(InputError, match="split_validation"):
        settings_for(validation=value)


def test_the_audit_finds_near_copies_in_the_validation_part(tmp_path):
    """Images 26 … 28 are validated on, and 27 is a copy of image 3; the test images are new."""
    write_noise(tmp_path / "data", {1: 60})
    (tmp_path / "data" / "ID_1" / "27.png").write_bytes((tmp_path / "data" / "ID_1" / "3.png").read_bytes())
    split = split_of(names_for({1: 60}), settings_for(images_per_user_train=29, validation=0.1))
    audit = audit_split(split, find_overlaps(tmp_path / "data", split.recordings))
    assert audit.validation_near_copies == pytest.approx(1 / 3) and audit.near_copy_share([1]) == 0
    assert audit.worst[0].image == "ID_1/27.png" and audit.line.startswith("warning")
    assert "0.0% of the test images and 33.3% of the validation images" in audit.line


def test_the_vae_validates_on_it_and_trains_on_all_training_images(tmp_path):
    write_noise(tmp_path / "data", {1: 90})
    path = tmp_path / "data_split.json"
    split = open_split(path, tmp_path / "data", SplitOptions()).split
    found = read_split(path)
    assert found.training == split.train_images[1] and found.validation == split.validation_images[1]
