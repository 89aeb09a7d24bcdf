"""The latent cache: what is in it, when it is made again, and its statistics."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from groundwork.errors import InputError
from groundwork.files import read_json, write_json
from microdoppler.data.latents import LatentCache, LatentStatistics, check_range, load_cached, load_or_encode, measure
from microdoppler.data.overlap import Successor
from microdoppler.data.stitching import Cut
from vae.kl_vae import KL_VAE

CPU = torch.device("cpu")


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return KL_VAE({"ch": 8, "ch_mult": (1, 1), "num_res_blocks": 1}).eval().requires_grad_(False)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "ID_1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"Doppler{i}.png")
    return tmp_path / "data"


class Counting:
    """A VAE that counts the images it encodes."""

    def __init__(self, vae):
        self.vae, self.encoded, self.scale_factor = vae, 0, vae.scale_factor
        self.fingerprint, self.channels = vae.fingerprint, vae.channels

    def encode(self, images):
        self.encoded += len(images)
        return self.vae.encode(images)


def encode(vae, data, count=5, image_size=16):
    paths = [f"ID_1/Doppler{i}.png" for i in range(count)]
    labels = torch.zeros(count, dtype=torch.int64)
    return load_or_encode(vae, data, [Cut(path) for path in paths], labels, image_size=image_size,
                          folder=data.parent / "cache", batch_size=2, device=CPU)


def test_holds_the_posteriors_in_order_in_a_memory_map(vae, data):
    cache = encode(vae, data)
    assert isinstance(cache.posteriors, np.memmap) and cache.posteriors.shape == (5, 2, 4, 8, 8)
    image = torch.from_numpy(np.array(Image.open(data / "ID_1/Doppler3.png"))).permute(2, 0, 1)[None] / 255
    posterior = vae.encode(image)
    assert np.allclose(cache.posteriors[3, 0], posterior.mean[0], rtol=1e-3, atol=1e-5)      # float16
    assert np.allclose(cache.posteriors[3, 1], posterior.logvar[0], rtol=1e-3, atol=1e-5)


def test_is_reused_until_weights_images_list_or_size_change(vae, data):
    counting = Counting(vae)
    def encoded():
        before, counting.encoded = counting.encoded, 0
        return before
    encode(counting, data)
    assert encoded() == 5
    encode(counting, data)
    assert encoded() == 0
    shutil.copystat(data / "ID_1/Doppler1.png", data / "ID_1/Doppler0.png")     # times are no content
    encode(counting, data)
    assert encoded() == 0
    encode(counting, data, count=4)
    assert encoded() == 4
    encode(counting, data, count=4, image_size=8)
    assert encoded() == 4
    Image.new("RGB", (16, 16)).save(data / "ID_1/Doppler2.png")
    encode(counting, data, count=4, image_size=8)
    assert encoded() == 4
    with torch.no_grad():
        vae.quant_conv.bias += 1
    cache = encode(counting, data, count=4, image_size=8)
    assert encoded() == 4 and len(cache) == 4


def test_a_tuned_decoder_changes_no_latents_and_another_encoder_does(vae, data):
    cache, tuned = encode(vae, data), vae.with_noise_inputs()
    torch.nn.init.constant_(tuned.decoder.conv_out.bias, 0.5)
    counting = Counting(tuned)
    assert encode(counting, data).fingerprint == cache.fingerprint and counting.encoded == 0
    torch.nn.init.constant_(vae.quant_conv.bias, 0.5)
    counting = Counting(vae.with_noise_inputs())
    assert encode(counting, data).fingerprint != cache.fingerprint and counting.encoded == 5


def test_a_cache_of_the_first_versions_is_still_valid():
    """What their fingerprints hold of a window, word by word, from commit 81b79da."""
    cuts = [Cut("ID_1/a.jpg"), Cut("ID_1/a.jpg", Successor("ID_1/b.jpg", np.float64(0.25)), 0.5, -0.0125)]
    assert [cut.identity for cut in cuts] == [
        "Cut(path='ID_1/a.jpg', following=None, fraction=0.0, doppler_shift=0.0)",
        "Cut(path='ID_1/a.jpg', following=Next(path='ID_1/b.jpg', shift=np.float64(0.25)), fraction=0.5, "
        "doppler_shift=-0.0125)"]


def test_a_cache_without_its_index_is_not_trusted(vae, data):
    counting = Counting(vae)
    encode(counting, data)
    (data.parent / "cache" / "latents.json").unlink()
    encode(counting, data)
    assert counting.encoded == 10


def test_images_read_ahead_give_the_same_cache_and_the_same_error(vae, data, monkeypatch):
    folder, caches, errors = data.parent / "cache", [], []
    for threads in (0, 2):
        monkeypatch.setattr("microdoppler.data.encoding.threads_beside", lambda device: threads)
        encode(vae, data)
        caches.append((folder / "latents.npy").read_bytes())
        shutil.rmtree(folder)
    whole = (data / "ID_1/Doppler3.png").read_bytes()
    (data / "ID_1/Doppler3.png").write_bytes(whole[:len(whole) // 2])
    for threads in (0, 2):
        monkeypatch.setattr("microdoppler.data.encoding.threads_beside", lambda device: threads)
        with pytest.raises(InputError, match="Doppler3.png cannot be decoded") as error:
            encode(vae, data)
        errors.append(str(error.value))
        assert not folder.exists()
    assert caches[0] == caches[1] and errors[0] == errors[1]


def test_what_a_damaged_index_holds_does_not_reach_the_terminal_as_it_is(vae, data, capsys):
    counting = Counting(vae)
    encode(counting, data)
    index = data.parent / "cache" / "latents.json"
    content = read_json(index)
    content["statistics"]["\x1b[2Jgone"] = 1
    write_json(index, content)
    encode(counting, data)
    warning = capsys.readouterr().out
    assert counting.encoded == 10 and r"\x1b[2Jgone" in warning and "\x1b" not in warning


def test_non_finite_latents_are_refused_and_nothing_is_left(vae, data):
    with torch.no_grad():
        vae.quant_conv.bias[0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        encode(vae, data)
    assert not (data.parent / "cache").exists()


def synthetic_cache(n=4000):
    """Known posteriors: channel means 0.5 and -1, means' std 2, posterior std 0.5 and 3."""
    rng = np.random.default_rng(1)
    mean = rng.normal(0, 2, (n, 2, 2, 2)) + np.array([0.5, -1.0])[:, None, None]
    logvar = np.broadcast_to(2 * np.log([0.5, 3.0])[:, None, None], mean.shape)
    posteriors = np.stack((mean, logvar), axis=1).astype(np.float32)
    return LatentCache(posteriors, torch.arange(n), scale_factor=0.1)


def test_statistics_are_those_of_the_samples_that_training_draws():
    cache = synthetic_cache()
    statistics = cache.statistics
    assert statistics.mean == pytest.approx([0.05, -0.1], abs=0.01)
    assert statistics.std == pytest.approx([0.1 * (4 + 0.25) ** 0.5, 0.1 * (4 + 9) ** 0.5], rel=0.02)
    samples, labels = cache.draw(torch.arange(4000), torch.Generator().manual_seed(0))
    assert samples.std(dim=(0, 2, 3)).tolist() == pytest.approx(statistics.std, rel=0.02)
    assert labels.tolist() == list(range(4000))
    chunked = measure(cache.posteriors, cache.scale_factor, chunk=7)
    assert chunked.std == pytest.approx(statistics.std) and chunked.min == statistics.min
    assert statistics.min < 0.1 * cache.posteriors[:, 0].min()      # of samples, which reach further than their means
    assert statistics.min == pytest.approx(samples.min().item(), rel=0.3)
    assert statistics.max == pytest.approx(samples.max().item(), rel=0.3)


def test_draws_are_fresh_yet_a_function_of_the_generator():
    cache = synthetic_cache(4)
    def draw(seed):
        return cache.draw(torch.tensor([2, 0]), torch.Generator().manual_seed(seed))[0]
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_scaling_standardizes_and_restores():
    cache = synthetic_cache()
    samples, _ = cache.draw(torch.arange(4000), torch.Generator().manual_seed(1))
    scaling = cache.statistics.scaling(standardize=True)
    standard = scaling.standardize(samples)
    assert standard.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=0.03)
    assert standard.std(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1], rel=0.03)
    assert torch.allclose(scaling.restore(standard), samples, atol=1e-6)
    assert torch.equal(cache.statistics.scaling(standardize=False).standardize(samples), samples)


def test_auto_normalize_with_latents_outside_the_unit_range_is_refused_with_the_range():
    outside = LatentStatistics([0.0], [0.18], -0.731, 0.9)
    with pytest.raises(InputError, match="-0.731"):
        check_range(outside, auto_normalize=True)
    check_range(outside, auto_normalize=False)
    check_range(LatentStatistics([0.5], [0.1], 0.0, 1.0), auto_normalize=True)


def test_index_says_what_was_encoded(vae, data):
    encode(vae, data)
    index = json.loads((data.parent / "cache" / "latents.json").read_text())
    assert index["images"][4] == "ID_1/Doppler4.png" and index["image_size"] == 16
    assert len(index["statistics"]["std"]) == 4


def test_a_cache_encoded_in_half_precision_is_the_same_for_a_checkpoint(vae, data):
    exact = encode(vae, data).statistics
    shutil.rmtree(data.parent / "cache")
    vae.compute_in(torch.bfloat16)
    encode(vae, data)
    assert load_cached(data.parent / "cache", exact).statistics != exact


def test_a_checkpoint_knows_its_latents_from_similar_ones(vae, data):
    """Latents of other images can have the same statistics, up to what half precision changes."""
    folder, own = data.parent / "cache", encode(vae, data)
    load_cached(folder, own.statistics, own.fingerprint)
    others = encode(vae, data, count=3)
    assert others.statistics.is_close(own.statistics)
    with pytest.raises(InputError, match="other latents than the checkpoint was trained on"):
        load_cached(folder, own.statistics, own.fingerprint)
    vae.compute_in(torch.bfloat16)
    encode(vae, data)
    again = load_cached(folder, own.statistics, own.fingerprint)
    assert again.fingerprint == own.fingerprint and again.statistics != own.statistics


def test_the_same_latents_encoded_again_are_the_same_and_others_are_not():
    was = LatentStatistics([0.1, 0.0], [0.2, 0.3], -1.0, 1.0)
    assert was.is_close(LatentStatistics([0.10001, 0.0], [0.2, 0.30001], -1.1, 1.0))
    assert not was.is_close(LatentStatistics([0.1, 0.0], [0.2, 0.31], -1.0, 1.0))
    assert not was.is_close(LatentStatistics([0.11, 0.0], [0.2, 0.3], -1.0, 1.0))
    assert not was.is_close(LatentStatistics([0.1], [0.2], -1.0, 1.0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_what_is_kept_on_the_generators_device_is_drawn_from_there(device):
    cache = LatentCache(np.zeros((6, 2, 1, 2, 2), np.float16), torch.arange(6), scale_factor=0.5)
    kept = torch.arange(6.0).to(device).view(6, 1, 1, 1, 1).repeat(1, 2, 1, 2, 2)
    kept[:, 1] = -30        # log-variance: next to no noise
    cache.resident = kept, cache.labels.to(device)
    latents, labels = cache.draw(torch.tensor([4, 1], device=device), torch.Generator(kept.device).manual_seed(0))
    assert latents[:, 0, 0, 0].tolist() == pytest.approx([2, 0.5], abs=1e-4) and labels.tolist() == [4, 1]
