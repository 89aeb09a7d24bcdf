"""A sharp VAE in place of the one that a diffusion model was trained with."""
import pytest
import torch
from torch import nn

from denoising_diffusion_pytorch.checkpoint import load_checkpoint
from groundwork.files import save_tensors
from microdoppler.data.control_sets import CUT, TEST
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.control import control_entries, through_vae, training_data
from microdoppler.pipeline.generation import ImageGenerator, Sampling
from vae.kl_vae import KL_VAE

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(demo):
    return demo[0] / "results" / "model-3.pt"


@pytest.fixture
def sharp(demo, tmp_path):
    """The demo's VAE after its decoder was tuned: another decoder for the same latents."""
    vae = KL_VAE.load(demo[0] / "kl_vae_best.pt").with_noise_inputs()
    for level in vae.decoder.up:
        nn.init.constant_(level.noise.strength.bias, 0.5)
    save_tensors(tmp_path / "sharp.pt", vae.checkpoint())
    return tmp_path / "sharp.pt"


def test_a_checkpoint_takes_the_sharp_decoder_of_its_vae_and_images_are_known_apart(checkpoint, sharp):
    plain, tuned = (ImageGenerator.load(checkpoint, CPU, Sampling(), path) for path in (None, sharp))
    assert "forced" not in tuned.identity and tuned.identity["vae"] != plain.identity["vae"]
    assert torch.equal(plain.sample_latents([1, 2], [3, 4]), tuned.sample_latents([1, 2], [3, 4]))
    assert not torch.equal(plain.sample_images([1], [3]), tuned.sample_images([1], [3]))
    ImageGenerator.load(checkpoint, CPU, Sampling(noise_level=0.5), sharp)      # the cache of the VAE before


def test_speckle_follows_from_the_images_seed(checkpoint, sharp):
    generator = ImageGenerator.load(checkpoint, CPU, Sampling(), sharp)
    latents = generator.sample_latents([1], [3]).expand(3, -1, -1, -1)
    images = generator.decode(latents, [3, 4, 3]).int()
    assert torch.equal(images[0], images[2]) and (images[0] - images[1]).abs().float().mean() > 1
    alone, among = generator.sample_images([1], [3]).int(), generator.sample_images([2, 1, 3], [9, 3, 8]).int()
    assert (alone[0] - among[1]).abs().max() <= 2       # rounding


def test_a_copy_and_its_window_have_different_speckle_though_both_have_the_first_seed_of_their_user(checkpoint, sharp):
    content = load_checkpoint(checkpoint)
    config = config_of(content)
    data = training_data(config, content["split"])
    entries = {entry["kind"]: entry for entry in control_entries(config, data, 1).values()}
    same = [{**entries[TEST], "kind": kind} for kind in (TEST, CUT)]
    for path, is_sharp in ((config.vae_path, False), (sharp, True)):
        images = through_vae(KL_VAE.load(path), config, data, same, CPU).int()
        assert torch.equal(*images) != is_sharp
