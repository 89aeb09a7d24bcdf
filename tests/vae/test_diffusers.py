"""Against diffusers itself: a VAE of random weights computes the same here and there, whoever wrote the files."""
import copy

import pytest
import torch

from groundwork.errors import InputError
from groundwork.files import read_json
from vae import KL_VAE
from vae.diffusers_folder import save_diffusers
from vae.kl_vae import DDCONFIG


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def autoencoder(diffusers, widths=(32, 64, 64), down="DownEncoderBlock2D", up="UpDecoderBlock2D", **options):
    """diffusers' AutoencoderKL with random weights everywhere, norms included."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=widths, down_block_types=(down,) * len(widths), up_block_types=(up,) * len(widths),
        **{"layers_per_block": 1, **options})
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return model.eval()


@torch.no_grad()
def assert_equal(vae, model):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, vae.channels, 32, 48, generator=generator)
    expected, found = model.encode(2 * x - 1).latent_dist, vae.encode(x)
    z = torch.randn(expected.mean.shape, generator=generator)
    for ours, theirs in ((found.mean, expected.mean), (found.logvar, expected.logvar),
                         (2 * vae.decode(z) - 1, model.decode(z).sample)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


KINDS = {
    "as Stable Diffusion's": {"widths": (32, 64, 128, 128), "layers_per_block": 2},
    "16 channels, no quant_conv": {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False,
                                   "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "grey": {"in_channels": 1, "out_channels": 1},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_vae_computes_the_same_here_and_there_and_there_again(diffusers, tmp_path, options):
    model = autoencoder(diffusers, **options)
    model.save_pretrained(tmp_path / "theirs")
    vae = KL_VAE.load(tmp_path / "theirs")
    assert_equal(vae, model)
    save_diffusers(vae, tmp_path / "ours")
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "ours").eval()
    assert_equal(vae, again)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=1e-6, atol=1e-6)
    theirs, ours = (read_json(tmp_path / name / "config.json") for name in ("theirs", "ours"))
    assert ours.items() <= theirs.items() and vae.scale_factor == theirs["scaling_factor"]


def test_every_form_in_which_diffusers_saves_is_read(diffusers, tmp_path):
    model = autoencoder(diffusers)
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert_equal(KL_VAE.load(tmp_path / "pickled"), model)
    half = copy.deepcopy(model).half()
    half.save_pretrained(tmp_path / "sd" / "vae", variant="fp16")
    assert_equal(KL_VAE.load(tmp_path / "sd"), half.float())
    model.save_pretrained(tmp_path / "sd" / "vae")      # beside the other
    assert_equal(KL_VAE.load(tmp_path / "sd"), model)


OTHERS = {
    "attention": (lambda library: autoencoder(library, down="AttnDownEncoderBlock2D", up="AttnUpDecoderBlock2D"),
                  "attention outside the middle"),
    "no attention": (lambda library: autoencoder(library, mid_block_add_attention=False), "no attention in the middle"),
    "one level": (lambda library: autoencoder(library, (32,)), "does not make images smaller; expected two levels"),
    "groups": (lambda library: autoencoder(library, (8, 16), norm_num_groups=8),
               "norm_num_groups 8 .* expected 8, 16 groups for its norms of 8, 16 channels"),
    "VQ": (lambda library: library.VQModel(block_out_channels=(32,)),
           "config.json describes VQModel; expected diffusers' AutoencoderKL"),
    "U-Net": (lambda library: library.UNet2DModel(
        block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)),
        "config.json describes UNet2DModel"),
}


@pytest.mark.parametrize("build, named", OTHERS.values(), ids=OTHERS)
def test_other_networks_of_diffusers_are_refused_by_name(diffusers, tmp_path, build, named):
    build(diffusers).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=named):
        KL_VAE.load(tmp_path)


def test_what_diffusers_cannot_compute_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(DDCONFIG, "a_later_layer", False)
    theirs = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "latent_diffusion": True}
    for vae, named in ((KL_VAE({"ch": 32, "ch_mult": (1, 2)}), "pads downsamplings on all sides"),
                       (KL_VAE(theirs), "decoder.up.1.upsample.weight is no nearest neighbour"),
                       (KL_VAE(theirs, embed_dim=3), "latents have 3 channels, but z_channels is 4"),
                       (KL_VAE(theirs | {"ch_mult": (2, 4)}), "begins with 2"),
                       (KL_VAE(theirs | {"a_later_layer": True}), "it has .*a_later_layer"),
                       (KL_VAE(theirs | {"ch": 8}), r"norms have \[8, 16\] groups")):
        with pytest.raises(InputError, match=named):
            save_diffusers(vae, tmp_path / "out")
    assert not (tmp_path / "out").exists()
