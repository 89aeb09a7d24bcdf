"""Images of one channel: read, encoded, written, classified, measured, and mixed with coloured ones."""
import numpy as np
import pytest
import torch
from PIL import Image

from groundwork.errors import InputError
from groundwork.files import save_tensors
from groundwork.images import load_image, load_images, save_image
from microdoppler.data.synthetic_sets import channels_of
from microdoppler.fidelity.gait_physics import intensity
from microdoppler.radar.spectrogram import render_image
from microdoppler.study.classifier import normalise
from vae.kl_vae import KL_VAE

GREY = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32, 1).astype(np.uint8)
SMALL = {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1}


def test_grey_files_keep_their_values_and_colours_become_their_luminance(tmp_path):
    save_image(tmp_path / "grey.png", GREY)
    assert Image.open(tmp_path / "grey.png").mode == "L"
    assert np.array_equal(load_image(tmp_path / "grey.png", 32, 1), GREY)
    assert np.array_equal(load_image(tmp_path / "grey.png", 32), GREY.repeat(3, axis=2))
    Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / "colour.png")
    luminance = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert np.unique(load_images(tmp_path, ["colour.png"], 32, channels=1)).tolist() == [luminance]


@pytest.mark.parametrize("side", [48, 96, 128])
def test_a_grey_vae_takes_any_size_its_factor_divides_and_is_recognised(tmp_path, side):
    vae = KL_VAE({**SMALL, "in_channels": 1, "out_ch": 1})
    save_tensors(tmp_path / "vae.pt", vae.checkpoint())
    loaded = KL_VAE.load(tmp_path / "vae.pt")
    latents = loaded.encode_images(torch.rand(2, 1, side, side))
    assert loaded.channels == 1 and latents.shape == (2, 4, side // 2, side // 2)
    assert loaded.decode_latents(latents).shape == (2, 1, side, side)


def test_a_vae_of_other_channels_is_refused(tmp_path):
    save_tensors(tmp_path / "vae.pt", KL_VAE({**SMALL, "in_channels": 2, "out_ch": 2}).checkpoint())
    with pytest.raises(InputError, match="2 channels into images of 2; expected 3 and 3"):
        KL_VAE.load(tmp_path / "vae.pt")


def test_a_classifier_sees_a_grey_image_as_three_equal_channels():
    grey = torch.from_numpy(GREY).permute(2, 0, 1)[None]
    assert torch.equal(normalise(grey, torch.device("cpu")), normalise(grey.repeat(1, 3, 1, 1), torch.device("cpu")))


def test_the_echo_of_a_grey_picture_is_its_brightness_and_of_a_jet_one_its_colour():
    shade = np.linspace(-34, 6, 64).astype(np.float32)[None].repeat(64, axis=0)
    images = (render_image(shade, (-34.0, 6.0), 64, channels).reshape(64, 64, channels) for channels in (1, 3))
    grey, jet = (torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images)
    assert np.allclose(intensity(grey[None]), intensity(jet[None]), atol=0.02)
    assert np.allclose(intensity(grey[None]), intensity(grey.repeat(3, 1, 1)[None]))


def test_real_images_are_looked_at_in_grey_beside_grey_synthetic_ones(tmp_path):
    save_image(tmp_path / "grey" / "ID_1" / "a.png", GREY)
    save_image(tmp_path / "colour" / "ID_1" / "a.png", GREY.repeat(3, axis=2))
    assert [channels_of([tmp_path / name], {1: "ID_1"}) for name in ("grey", "colour")] == [1, 3]
    assert channels_of([tmp_path / "colour", tmp_path / "grey"], {1: "ID_1"}) == 1 and channels_of([], {1: "ID_1"}) == 3
