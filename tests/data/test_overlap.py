"""The overlap audit on planted overlaps, and windows cut from stitched neighbours."""
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import one_recording, split_of

from groundwork.errors import InputError
from groundwork.preparation import Preparation
from microdoppler.data import split_command
from microdoppler.data.audit import Match, audit_split, guard_needed, pairs_figure
from microdoppler.data.overlap import (MIN_OVERLAP, NEAR_COPY, Overlaps, best_match, find_overlaps,
                                       load_or_find_overlaps, neighbour_match, without_profile)
from microdoppler.data.recordings import by_names
from microdoppler.data.split_settings import SplitSettings
from microdoppler.data.stitching import Cut, add_doppler_shifts, cut_between, load_cuts, plan_cuts
from microdoppler.figures.axes import PictureAxes

SIDE, HOP = 64, 16


def recording(seed: int, columns: int) -> np.ndarray:
    """(SIDE, columns, 3) uint8: smooth noise, no two stretches of which are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE // 4, columns // 4 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((columns, SIDE), Image.Resampling.BICUBIC))


def write_passes(root: Path, passes: dict[int, list[int]], gap: int = 6, step: int = 1) -> dict[int, list[str]]:
    """{user: windows in each pass} → PNGs of 75 % overlap; numbers grow by step, and more between passes."""
    names = {}
    for user, counts in passes.items():
        (root / f"ID_{user}").mkdir(parents=True)
        number, names[user] = 1, []
        for index, count in enumerate(counts):
            strip = recording(100 * user + index, SIDE + HOP * (count - 1))
            for i in range(count):
                name = f"ID_{user}/Doppler{step * (number + i)}.png"
                Image.fromarray(strip[:, HOP * i:HOP * i + SIDE]).save(root / name)
                names[user].append(name)
            number += count + gap
    return names


def recordings_of(names):
    """What write_passes wrote, with the numbers in the names."""
    return {user: by_names(own) for user, own in names.items()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted") / "data"
    names = write_passes(root, {1: [10, 12, 8], 2: [15, 14]})
    return root, names, find_overlaps(root, recordings_of(names))


def slow_correlation(a: np.ndarray, b: np.ndarray, shift: int) -> float:
    width = a.shape[-1]
    a, b = (a[..., :width - shift], b[..., shift:]) if shift >= 0 else (a[..., -shift:], b[..., :width + shift])
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_matches_against_the_obvious_slow_way():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(count, 3, 6, 12, generator=generator) * 100 for count in (3, 4))
    correlation, shift = best_match(first, second)
    most = int(12 * (1 - MIN_OVERLAP))
    for i in range(3):
        for j in range(4):
            every = {s: slow_correlation(first[i].numpy(), second[j].numpy(), s) for s in range(-most, most + 1)}
            assert correlation[i, j] == pytest.approx(max(every.values()), abs=1e-4)
            assert int(shift[i, j]) == max(every, key=every.get)
    neighbours = neighbour_match(first)
    expected = [[slow_correlation(first[i + 1].numpy(), first[i].numpy(), s) for s in range(most + 1)]
                for i in range(2)]
    np.testing.assert_allclose(neighbours.numpy(), expected, atol=1e-4)


def test_a_blank_picture_matches_nothing():
    images = torch.cat([torch.zeros(2, 3, 16, 16), torch.rand(2, 3, 16, 16) * 255])
    correlation, _ = best_match(images, images)
    assert correlation.isfinite().all() and correlation[0, 1] < NEAR_COPY and correlation[2, 2] == pytest.approx(1)


def test_the_profile_that_all_windows_share_makes_no_match():
    stripes = (torch.arange(16) % 4 * 60).view(1, 1, 16, 1).float()
    images = stripes + torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 20
    plain, _ = best_match(images, images)
    cleaned, _ = best_match(*[without_profile(images)] * 2)
    apart = ~torch.eye(6, dtype=bool)
    assert plain[apart].min() > 0.9 and cleaned[apart].max() < NEAR_COPY


def test_hop_and_passes_are_found(planted):
    _, names, overlaps = planted
    assert overlaps.hop_columns == HOP and overlaps.width == SIDE
    found = [overlaps.pass_of[name] for name in names[1]]
    assert found == [0] * 10 + [1] * 12 + [2] * 8
    assert len(overlaps.successor_of) == (9 + 11 + 7) + (14 + 13)
    after = overlaps.successor_of["ID_1/Doppler1.png"]
    assert after.path == "ID_1/Doppler2.png" and after.shift == HOP / SIDE


def test_a_pass_boundary_without_a_gap_in_the_numbers_is_found_too(tmp_path):
    names = write_passes(tmp_path / "data", {1: [8, 9]}, gap=0)
    overlaps = find_overlaps(tmp_path / "data", recordings_of(names))
    assert [overlaps.pass_of[name] for name in names[1]] == [0] * 8 + [1] * 9


def test_files_may_be_numbered_by_column(tmp_path):
    names = write_passes(tmp_path / "data", {1: [8, 9]}, step=HOP)
    overlaps = find_overlaps(tmp_path / "data", recordings_of(names))
    assert overlaps.hop_columns == HOP and len(overlaps.successor_of) == 7 + 8
    assert [overlaps.pass_of[name] for name in names[1]] == [0] * 8 + [1] * 9


def test_an_image_of_the_split_that_is_gone_is_named(planted):
    _, names, overlaps = planted
    names = {1: [*names[1], "ID_1/Doppler99.png"], 2: names[2]}
    split = split_of(names, SplitSettings(2, 5, "contiguous", 0, 0, 1))
    with pytest.raises(InputError, match="ID_1/Doppler99.png of the split cannot be decoded"):
        audit_split(split, overlaps)


def test_windows_that_do_not_overlap_have_no_hop(tmp_path):
    names = write_passes(tmp_path / "data", {1: [1] * 8}, gap=0)
    overlaps = find_overlaps(tmp_path / "data", recordings_of(names))
    # which windows are independent cannot be told either, so a recording is one pass
    assert overlaps.hop is None and set(overlaps.pass_of.values()) == {0} and not overlaps.successor_of
    audit = audit_split(split_of(names, SplitSettings(1, 4, "random", 0, 0, 1)), overlaps)
    assert audit.near_copy_share([1]) == 0 and "hop unknown: cannot tell whether windows overlap" in audit.line


def test_a_random_split_leaks_and_a_guarded_contiguous_one_does_not(planted):
    _, names, overlaps = planted
    settings = SplitSettings(2, 10, "contiguous", 0, 4, 1)
    random = audit_split(split_of(names, replace(settings, strategy="random")), overlaps)
    contiguous = audit_split(split_of(names, settings), overlaps)
    assert random.near_copy_share([1, 2]) > 0.7 and random.line.startswith("warning: ") and "contiguous" in random.line
    assert contiguous.near_copy_share([1, 2]) == 0 and not contiguous.line.startswith("warning")
    unguarded = audit_split(split_of(names, replace(settings, guard=0)), overlaps)
    assert 0 < unguarded.near_copy_share([2]) < 0.3
    # three windows after the training run share 75, 50 and 25 % of their columns with it
    assert guard_needed(overlaps, settings, contiguous.split.folders) == unguarded.guard == 3


def test_a_guard_that_leaves_a_user_without_test_images_is_not_advised():
    """User 1 has 12 windows, each much like all of its others; user 2 60, much alike within 6."""
    apart = {user: np.abs(np.arange(count)[:, None] - np.arange(count)) for user, count in ((1, 12), (2, 60))}
    names = {user: [f"ID_{user}/Doppler{i}.png" for i in range(len(own))] for user, own in apart.items()}
    overlaps = Overlaps(one_recording(names),
                        {1: np.ones((12, 12), np.float32), 2: np.where(apart[2] <= 6, 1, 0).astype(np.float32)},
                        {user: np.zeros_like(own) for user, own in apart.items()},
                        {user: np.zeros(len(own) - 1) for user, own in apart.items()}, 256)
    settings = SplitSettings(2, 8, "random", 0, 0, 42)
    assert guard_needed(overlaps, settings, {1: "ID_1", 2: "ID_2"}) is None
    fewer = {2: names[2]}
    alone = Overlaps(one_recording(fewer), {2: overlaps.correlation[2]}, {2: overlaps.shift[2]},
                     {2: overlaps.neighbours[2]}, 256)
    guard = guard_needed(alone, settings, {2: "ID_2"})
    assert guard == 6 and split_of(fewer, replace(settings, strategy="contiguous", guard=guard))


def test_near_copies_are_those_that_share_columns(planted):
    _, names, overlaps = planted
    split = split_of(names, SplitSettings(2, 10, "random", 0, 0, 5))
    found = {match.image: match for own in audit_split(split, overlaps).matches.values() for match in own}
    number = {name: int("".join(filter(str.isdigit, name.split("/")[1]))) for own in names.values() for name in own}
    for user in (1, 2):
        for name in split.test_images[user]:
            nearest = min(abs(number[name] - number[train]) for train in split.train_images[user])
            assert (found[name].correlation >= NEAR_COPY) == (nearest <= 3)


def test_what_is_stored_is_read_and_made_anew_when_files_change(planted, tmp_path):
    root, names, overlaps = planted
    first = load_or_find_overlaps(root, recordings_of(names), tmp_path)
    started = time.perf_counter()
    again = load_or_find_overlaps(root, recordings_of(names), tmp_path)
    assert time.perf_counter() - started < 1
    assert first.pass_of == again.pass_of == overlaps.pass_of and first.successor_of == again.successor_of
    fewer = load_or_find_overlaps(root, recordings_of({1: names[1]}), tmp_path)
    assert fewer.correlation.keys() == {1} and fewer.successor_of.items() < overlaps.successor_of.items()
    (tmp_path / "overlaps.npz").write_bytes(b"PK half a file")
    assert load_or_find_overlaps(root, recordings_of(names), tmp_path).successor_of == overlaps.successor_of


def test_the_command_writes_json_and_a_picture(planted, tmp_path, capsys):
    root, _, _ = planted
    split_command.main(root, output=tmp_path / "data_split.json", num_users=2, images_per_user_train=10,
                       split_strategy="random", seed=1)
    said = capsys.readouterr().out
    assert "warning: overlap audit: " in said and f"hop {HOP} of {SIDE} columns" in said and "3 windows" in said
    found = json.loads((tmp_path / "split_audit.json").read_text())
    assert found["hop_columns"] == HOP and found["guard"] == 3 and found["near_copies"] > 0.7
    assert [entry["num_images"] for entry in found["users"]["2"]["passes"]] == [15, 14]
    assert found["users"]["2"]["passes"][0]["first"] == "ID_2/Doppler1.png"
    Image.open(tmp_path / "split_audit.png").verify()


def test_pairs_are_told_in_seconds_where_they_are_known(planted):
    root, names, _ = planted
    pair = Match(names[1][1], names[1][0], 0.9, 0.25)
    for axes, unit, end in ((PictureAxes(2.0, -1.0, 1.0), "s", 2.5), (None, "windows", 1.25)):
        above, below = pairs_figure([pair], root, root, "test", axes, Preparation(), Preparation(), "0.8").axes
        assert below.get_xlabel() == f"time in {unit}; correlation 0.90" and above.get_xlim() == (0.0, end)
        assert above.get_title() == names[1][1]


@pytest.mark.parametrize("begin", [0, 1, 7, 15, 16])
def test_a_cut_shows_what_was_recorded_at_that_time(begin):
    strip = torch.from_numpy(recording(1, SIDE + HOP).copy()).permute(2, 0, 1)
    first, second = strip[None, ..., :SIDE], strip[None, ..., HOP:]
    cut = cut_between(first, second, torch.tensor([HOP]), torch.tensor([begin]))
    assert torch.equal(cut[0], strip[..., begin:begin + SIDE])


def test_a_seam_between_unlike_neighbours_is_gradual():
    """Two windows of one stretch, the second brighter: the cut goes from the one to the other within the seam."""
    first, second = torch.full((1, 1, 1, SIDE), 50, dtype=torch.uint8), torch.full((1, 1, 1, SIDE), 100,
                                                                                  dtype=torch.uint8)
    for begin in range(1, HOP):
        row = cut_between(first, second, torch.tensor([HOP]), torch.tensor([begin]))[0, 0, 0].int()
        assert row[0] == 50 or begin > HOP // 2
        assert row[-1] == 100 and (row.diff() >= 0).all() and row.diff().max() <= 8


def test_cuts_of_training_windows_only_use_training_windows(planted):
    root, names, overlaps = planted
    train = names[1][2:6]
    cuts = plan_cuts(train, overlaps.successor_of, cuts_per_hop=4)
    assert len(cuts) == 3 * 4 + 1 and plan_cuts(train, overlaps.successor_of, 1) == [Cut(name) for name in train]
    assert {cut.path for cut in cuts} | {cut.successor.path for cut in cuts if cut.successor} == set(train)
    images = load_cuts(root, cuts, SIDE)
    strip = recording(100, SIDE + HOP * 9)
    for cut, image in zip(cuts, images):
        start = HOP * (names[1].index(cut.path) + cut.fraction)
        expected = torch.from_numpy(strip[:, round(start):round(start) + SIDE].copy()).permute(2, 0, 1)
        assert torch.equal(image, expected), cut.name


def test_windows_are_moved_in_doppler_each_by_its_own_share_and_nothing_wraps_round(planted):
    root, names, overlaps = planted
    plain = plan_cuts(names[1], overlaps.successor_of, cuts_per_hop=4)
    moved = add_doppler_shifts(plain, 0.1, seed=3)
    shifts = np.array([cut.doppler_shift for cut in moved])
    assert moved == add_doppler_shifts(plain, 0.1, seed=3) != add_doppler_shifts(plain, 0.1, seed=4)
    assert np.abs(shifts).max() <= 0.1 and shifts.min() < -0.05 and shifts.max() > 0.05
    assert len({cut.name for cut in moved}) == len(moved)
    for before, after, rows in zip(load_cuts(root, plain, SIDE), load_cuts(root, moved, SIDE),
                                   np.round(shifts.astype(np.float32) * SIDE).astype(int)):
        for row in range(SIDE):
            assert torch.equal(after[:, row], before[:, min(max(row - rows, 0), SIDE - 1)])
