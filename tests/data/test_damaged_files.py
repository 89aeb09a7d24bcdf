"""Latents and other files of ours that were damaged, or made to run code; what tells them apart."""
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import RGB, edited, find_users, one_recording

from groundwork.errors import InputError
from groundwork.files import load_tensors, save_tensors
from groundwork.limits import Augmentation, Budget, Mixing, to_plain
from groundwork.preparation import Preparation
from microdoppler.data import latents
from microdoppler.data.latents import LatentCache, load_cached, load_or_encode
from microdoppler.data.overlap import load_or_find_overlaps
from microdoppler.data.stitching import Cut
from microdoppler.pipeline.constants import config_of
from microdoppler.study.runs import RunLog
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE


@pytest.fixture
def cache(data, tmp_path):
    """encode() → the cache of four images, in tmp_path / cache."""
    torch.manual_seed(0)
    vae, cuts = KL_VAE({"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1}), [Cut(f"ID_1/Doppler{i}.png")
                                                                           for i in (1, 2, 3, 4)]
    def encode():
        return load_or_encode(vae, data, cuts, torch.zeros(4, dtype=torch.int64), image_size=16,
                              folder=tmp_path / "cache", batch_size=3, device=torch.device("cpu"))
    return encode


def flip_a_byte(path, place=-100):
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)


DAMAGE = {
    "a flipped byte": lambda latents, index: flip_a_byte(latents),
    "a flipped byte of its header": lambda latents, index: flip_a_byte(latents, 2),
    "cut short": lambda latents, index: latents.write_bytes(latents.read_bytes()[:-64]),
    "empty": lambda latents, index: latents.write_bytes(b""),
    "gone": lambda latents, index: latents.unlink(),
    "an index cut short": lambda latents, index: index.write_text(index.read_text()[:50]),
    "an index of something else": lambda latents, index: index.write_text("[1]"),
    "an index without statistics": lambda latents, index: index.write_text(
        edited(index.read_text(), lambda found: found.pop("statistics"))),
    "objects that would run code": lambda latents, index: np.save(latents, np.array([Planted()] * 4)),
}


class Planted:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_cache_is_noticed_and_made_again(cache, tmp_path, what, capsys):
    first = cache()
    whole, index = (tmp_path / "cache" / "latents.npy").read_bytes(), (tmp_path / "cache" / "latents.json").read_bytes()
    statistics = first.statistics
    DAMAGE[what](tmp_path / "cache" / "latents.npy", tmp_path / "cache" / "latents.json")
    with pytest.raises(InputError):
        load_cached(tmp_path / "cache", statistics)
    assert isinstance(cache(), LatentCache)
    assert (tmp_path / "cache" / "latents.npy").read_bytes() == whole
    assert (tmp_path / "cache" / "latents.json").read_bytes() == index
    assert "code ran" not in capsys.readouterr().out


def test_the_cache_follows_what_it_was_made_from(cache, data, tmp_path):
    cache()
    before = (tmp_path / "cache" / "latents.npy").stat().st_mtime_ns
    cache()
    assert (tmp_path / "cache" / "latents.npy").stat().st_mtime_ns == before
    Image.fromarray(255 - RGB).save(data / "ID_1" / "Doppler3.png")
    cache()
    assert (tmp_path / "cache" / "latents.npy").stat().st_mtime_ns > before


class OnlyFingerprint:
    def __init__(self, value):
        self.value = value

    def fingerprint(self):
        return self.value


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=2, max_size=5), st.data())
def test_the_fingerprint_of_a_cache_tells_whatever_differs(tmp_path_factory, contents, data):
    """VAE, image size, labels, cuts, their order, how images are prepared, and every byte of every image."""
    folder = tmp_path_factory.mktemp("images")
    for i, content_ in enumerate(contents):
        (folder / f"{i}.png").write_bytes(content_)

    def fingerprint(vae="a", size=16, moved=0.0, label=0, order=1, fit="stretch"):
        cuts = [Cut(f"{i}.png", doppler_shift=moved) for i in range(len(contents))][::order]
        return latents._fingerprint(OnlyFingerprint(vae), folder, cuts, torch.full((len(cuts),), label), size,
                                    Preparation(fit))
    first = fingerprint()
    assert fingerprint() == first
    others = [fingerprint(vae="b"), fingerprint(size=17), fingerprint(moved=0.01), fingerprint(label=1),
              fingerprint(order=-1), fingerprint(fit="pad")]
    changed = data.draw(st.integers(0, len(contents) - 1))
    (folder / f"{changed}.png").write_bytes(contents[changed][:-1] + bytes([contents[changed][-1] ^ 1]))
    assert len({first, *others, fingerprint()}) == 8


NATURAL = {int: st.integers(0, 10 ** 6), float: st.floats(allow_nan=False), bool: st.booleans(), str: st.text(),
           Path: st.text("abcäß步 /_-.", min_size=1).map(Path)}


NUMBERS = st.lists(NATURAL[float], max_size=4).map(tuple)
OPTIONAL = {        # constants that are None by default
    "class_names": NATURAL[Path], "test_data": NATURAL[Path], "recording_pattern": st.text(), "fit": st.text(),
    "images_per_user_train": NATURAL[int] | NATURAL[float] | st.just("all_but_test"), "split_strategy": st.text(),
    "split_fold": NATURAL[int], "split_guard": NATURAL[int], "split_validation": NATURAL[float], "crop": NUMBERS,
    "levels": NUMBERS, "leave_out_users": st.lists(NATURAL[int], max_size=4).map(tuple)}


CHOICES = {         # constants that are one of a few words
    "classifier_mixing": st.sampled_from(get_args(Mixing)), "classifier_budget": st.sampled_from(get_args(Budget)),
    "classifier_augmentations": st.lists(st.sampled_from(get_args(Augmentation)), max_size=4).map(tuple)}


def any_like(name):
    value = getattr(Config(), name)
    if name in CHOICES:
        return CHOICES[name]
    if isinstance(value, tuple):
        return st.lists(NATURAL[type(value[0])], max_size=4).map(tuple)
    if value is None:
        return st.none() | OPTIONAL[name]
    return next(strategy for kind, strategy in NATURAL.items() if type(value) is kind or (
        kind is Path and isinstance(value, Path)))


@given(st.fixed_dictionaries({field.name: any_like(field.name) for field in fields(Config)}))
def test_every_config_survives_a_checkpoint(tmp_path_factory, constants):
    config, path = Config(**constants), tmp_path_factory.mktemp("round") / "model-1.pt"
    save_tensors(path, {"config": to_plain(config)})
    assert config_of(load_tensors(path)) == config


# ---------------------------------------------------------------------------------------------------- planted code

def plant(path):
    if path.suffix == ".npz":
        np.savez(path, fingerprint=Planted(), probabilities=np.array([Planted()]), seconds=1.0)
    elif path.suffix == ".npy":
        np.save(path, np.array([Planted()]), allow_pickle=True)
    else:
        torch.save({"model_state_dict": Planted(), "a": torch.zeros(2)}, path)


@pytest.mark.parametrize("name, read", [
    ("kl_vae_best.pt", KL_VAE.load), ("model-1.pt", load_tensors), ("recogniser-0.pt", load_tensors),
    ("kl_vae_best_state.pt", load_tensors)])
def test_no_file_of_weights_runs_code(tmp_path, name, read, capsys):
    plant(tmp_path / name)
    with pytest.raises(InputError, match="run code"):
        read(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_no_file_of_arrays_runs_code(data, tmp_path, capsys):
    plant(tmp_path / "overlaps.npz")
    recordings = one_recording(find_users(data))
    assert len(load_or_find_overlaps(data, recordings, tmp_path).correlation[1]) == 50     # made anew
    (tmp_path / "predictions").mkdir()
    plant(tmp_path / "predictions" / "abc.npz")
    assert RunLog(tmp_path).read("abc") is None
    assert "code ran" not in capsys.readouterr().out


def test_a_file_that_would_run_code_does_so_with_a_careless_reader(tmp_path, capsys):
    """That is, the tests above would notice."""
    plant(tmp_path / "model-1.pt")
    torch.load(tmp_path / "model-1.pt", weights_only=False)
    assert "code ran" in capsys.readouterr().out
    save_tensors(tmp_path / "plain.pt", {"a": torch.zeros(2)})
    assert torch.equal(load_tensors(tmp_path / "plain.pt")["a"], torch.zeros(2))
