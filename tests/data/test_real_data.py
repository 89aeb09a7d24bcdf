"""On real spectrograms, where they lie beside the repository (they carry no licence, so they are not in it)."""
from pathlib import Path

import numpy as np
import pytest
from toys import find_users

from groundwork.images import load_image, load_images
from microdoppler.data.audit import audit_split
from microdoppler.data.overlap import find_overlaps
from microdoppler.data.recordings import all_images, find_recordings
from microdoppler.data.split import split_images
from microdoppler.data.split_settings import SplitSettings
from microdoppler.fidelity.gait_physics import MIN_WALKING, cadence_share, describe_gait
from microdoppler.simulate.gait import AXES as SIMULATED_AXES

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real_gait" / "Normal_line"
HOPS = range(52, 80, 4)     # columns between consecutive windows of 256: about 64
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real spectrograms are not here")


@pytest.fixture(scope="module")
def recordings():
    return find_recordings(REAL, find_users(REAL))[0]


def split(recordings, strategy):
    folders = {user: f"ID_{user}" for user in recordings}
    return split_images(recordings, SplitSettings(6, 50, strategy, 0, 4, 42), folders)


def overlap_correlation(names):
    """The correlation of each window's last columns with the next one's first, at the best hop."""
    images = [load_image(REAL / name, 256).mean(axis=2) for name in names]
    return np.array([max(np.corrcoef(before[:, hop:].ravel(), after[:, :-hop].ravel())[0, 1] for hop in HOPS)
                     for before, after in zip(images, images[1:])])


def test_images_are_found_in_time_order(recordings):
    for user, own in recordings.items():
        names = all_images(own)[:40]
        in_time, as_strings = overlap_correlation(names), overlap_correlation(sorted(names))
        assert np.median(in_time) > 0.8 and in_time.mean() > as_strings.mean(), user


def test_all_persons_walk_whatever_the_axes_of_their_radar(recordings):
    for user, own in recordings.items():
        gait = describe_gait(load_images(REAL, all_images(own)[:40], 128).numpy(), SIMULATED_AXES)
        assert cadence_share(gait) >= MIN_WALKING, user


def test_contiguous_split_shares_no_columns_between_its_parts(recordings):
    """Away from the guard no test window continues a training window; in the random split many do."""
    images = all_images(recordings[1])

    def leaks(strategy):
        divided = split(recordings, strategy)
        trained, tested = set(divided.train_images[1]), set(divided.test_images[1])
        pairs = zip(images, images[1:], overlap_correlation(images))
        return sum(c > 0.8 for a, b, c in pairs if (a in trained) != (b in trained) and {a, b} <= trained | tested)
    assert leaks("contiguous") == 0
    assert leaks("random") > 20


def test_the_audit_finds_the_hop_and_the_leak_of_the_random_split(recordings):
    overlaps = find_overlaps(REAL, recordings)
    assert overlaps.hop_columns == 64
    audits = {strategy: audit_split(split(recordings, strategy), overlaps) for strategy in ("contiguous", "random")}
    assert audits["random"].near_copy_share(range(1, 7)) > 0.7
    assert audits["contiguous"].near_copy_share(range(1, 7)) < 0.01
    assert "order or the recordings are wrong" not in audits["contiguous"].line
