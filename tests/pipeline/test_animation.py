"""generate.py --animate: its frames are what is drawn without it, and its files play."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import generate
from denoising_diffusion_pytorch.checkpoint import EMA_PREFIX, FORMAT
from denoising_diffusion_pytorch.samplers import SAMPLERS
from groundwork.errors import InputError
from groundwork.files import save_tensors
from groundwork.limits import to_plain
from groundwork.memory import AdaptiveBatches
from microdoppler.figures.axes import PictureAxes
from microdoppler.figures.film import MARGIN_PIXELS, TITLE_PIXELS, Frame, save_film
from microdoppler.pipeline.animation import FRAMES_PER_USER, denoising_frames, interpolation_frames
from microdoppler.pipeline.assembly import build_diffusion
from microdoppler.pipeline.generation import ImageGenerator, Sampling, image_seed
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

GUIDED = Sampling(cond_scale=2.0, sampling_timesteps=4)
ENLARGED = 8        # 32 pixels as 256


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a tiny network with random weights, whose three classes differ clearly."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    vae = KL_VAE({"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1})
    save_tensors(folder / "vae.pt", vae.checkpoint())
    config = replace(Config(), vae_path=folder / "vae.pt", num_users=3, image_size=32, latent_size=16,
                     latent_channels=4, dim=8, dim_mults=(1, 2), attn_dim_head=8, attn_heads=2, timesteps=20, amp=False,
                     device="cpu", standardize_latents=False)
    unet = build_diffusion(config).model
    with torch.no_grad():
        unet.classes_emb.weight.mul_(10)
    save_tensors(folder / "model-1.pt", {
        "format": FORMAT, "step": 1, "config": to_plain(config), "vae_fingerprint": vae.fingerprint(),
        "ema": {EMA_PREFIX + name: value for name, value in unet.state_dict().items()}})
    return folder / "model-1.pt"


@pytest.fixture(scope="module")
def generator(checkpoint):
    return ImageGenerator.load(checkpoint, "cpu", GUIDED)


def frames_of(path):
    """(pictures (n, h, w, 3), milliseconds of each) of a file that plays for ever."""
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        frames = [(np.asarray(frame.convert("RGB")).astype(int), frame.info["duration"])
                  for frame in ImageSequence.Iterator(film)]
    return np.stack([picture for picture, _ in frames]), [duration for _, duration in frames]


def image_in(picture):
    """The 32 px image of a picture without axes."""
    image = picture[TITLE_PIXELS:TITLE_PIXELS + 256, MARGIN_PIXELS:MARGIN_PIXELS + 256]
    assert (image == image[::ENLARGED, ::ENLARGED].repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)).all()
    return image[::ENLARGED, ::ENLARGED]


@pytest.mark.parametrize("sampler, steps", [("dpmpp_2m", 4), ("ddpm", 6)])
def test_denoising_ends_with_the_image_written_without_animate(checkpoint, tmp_path, monkeypatch, sampler, steps):
    monkeypatch.setattr("microdoppler.pipeline.animation.MAX_STEPS_SHOWN", 6)       # ddpm takes 20
    settings = {"checkpoint": checkpoint, "user_id": (3,), "sampling": replace(GUIDED, sampler=sampler),
                "device": "cpu"}
    generate.main(**settings, output_dir=tmp_path / "not", animate=tmp_path / "film.webp")
    assert not (tmp_path / "not").exists()
    generate.main(**settings, output_dir=tmp_path / "out", num_samples=2)
    written = np.asarray(Image.open(tmp_path / "out" / "ID_3" / "ID3_synthetic_Doppler1.png")).astype(int)
    pictures, durations = frames_of(tmp_path / "film.webp")
    assert len(pictures) == steps and durations[-1] > 2 * max(durations[:-1])
    assert abs(image_in(pictures[-1]) - written).max() <= 1
    assert abs(image_in(pictures[0]) - written).max() > 5


def test_denoising_says_whose_it_is_and_how_noisy(generator):
    titles = [frame.title for frame in denoising_frames(generator, 2, AdaptiveBatches(2, "frame"))]
    assert titles[0] == "user 2\nstep 1 of 4, noise level 1.00"
    assert titles[-1] == "user 2\nstep 4 of 4, noise level 0.25"


def test_interpolation_passes_through_the_plain_samples_of_one_noise(generator):
    users = [1, 3]
    frames = interpolation_frames(generator, users, AdaptiveBatches(5, "frame"))
    images = torch.stack([frame.image for frame in frames]).int()
    plain = generator.sample_images(users, [image_seed(generator.config.seed, 1, 1)] * 2).int()
    assert len(images) == 2 * FRAMES_PER_USER
    assert (images[::FRAMES_PER_USER] - plain).abs().max() <= 1
    away = [(images - own).abs().float().mean(dim=(1, 2, 3)) for own in plain]
    assert (away[0][1:] > 0.5).all() and away[0][FRAMES_PER_USER] > 2       # the users differ, and no frame is a copy
    assert away[0][1] < away[0][FRAMES_PER_USER - 1] and away[0][-1] < away[0][FRAMES_PER_USER + 1]     # there and back
    assert frames[0].title == "user 1\n" and frames[-1].title.startswith("user 3 → user 1\n")
    assert frames[0].seconds == frames[FRAMES_PER_USER].seconds > 2 * frames[1].seconds


def test_interpolation_leaves_the_generator_as_it_was(generator):
    before = generator.sample_images([2], [7])
    interpolation_frames(generator, [1, 2, 3], AdaptiveBatches(64, "frame"))
    assert torch.equal(generator.sample_images([2], [7]), before)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("auto_normalize", [False, True])
def test_what_is_told_of_each_step_ends_with_the_result_and_changes_nothing(generator, sampler, auto_normalize):
    config = replace(generator.config, sampler=sampler, auto_normalize=auto_normalize, timesteps=6,
                     ddim_sampling_eta=0.5)
    torch.manual_seed(0)
    diffusion, told = build_diffusion(config).eval(), []

    def sample(**options):
        return diffusion.sample(torch.tensor([0, 2]), generators=torch.Generator().manual_seed(0), **options)

    result = sample(on_step=lambda t, x_start: told.append((t, x_start)))
    assert torch.equal(result, sample())
    assert [t for t, _ in told] == diffusion.sampling_times()
    torch.testing.assert_close(told[-1][1], result)


@pytest.mark.parametrize("options, words", [
    ({"animate": Path("film.mp4")}, "expected it to end in .webp or .gif"),
    ({"animate": Path(".")}, "no name for an animation"),
    ({"animate": Path("film.gif"), "user_id": (1, 9)}, "--user_id 9 is unknown"),
    ({"animate": Path("film.gif"), "user_id": ()}, "either --all_users or --user_id")])
def test_bad_input_is_refused(checkpoint, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        generate.main(**{"checkpoint": checkpoint, "user_id": (1,), "device": "cpu"} | options)
    assert not list(tmp_path.iterdir())


def test_users_are_not_mixed_on_different_starting_images(generator):
    from_images = replace(generator, config=replace(generator.config, noise_level=0.5))
    with pytest.raises(InputError, match="give --noise_level 1"):
        interpolation_frames(from_images, [1, 2], AdaptiveBatches(64, "frame"))


@pytest.mark.parametrize("suffix", ["webp", "gif", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_means_the_same_in_every_frame(tmp_path, suffix, channels):
    """A mark of one colour on grounds that differ, and a title longer than the picture is wide."""
    frames = []
    for ground in (0, 100, 200):
        image = torch.full((32, 32, channels), ground, dtype=torch.uint8)
        image[:, 8:24] = 250
        frames.append(Frame(image, "a very long name of a class " * 4 + f"$\n{ground}", 0.1))
    save_film(tmp_path / f"film.{suffix}", frames, PictureAxes(1.5, -2, 3))
    pictures, durations = frames_of(tmp_path / f"film.{suffix}")
    assert durations == [100, 100, 100]
    row = pictures[:, TITLE_PIXELS + 100]
    start = row.shape[1] - MARGIN_PIXELS - 256
    assert abs(row[:, start + 100] - 250).max() <= 2
    assert (abs(row[:, start + 10].mean(axis=-1) - [0, 100, 200]) <= 2).all()
    assert (pictures[:, :, :2] > 250).all() and (pictures[:, :, -2:] > 250).all()      # the title is not cut off


def test_a_film_of_one_frame_is_a_picture(tmp_path):
    for suffix in ("webp", "gif"):
        save_film(tmp_path / f"film.{suffix}", [Frame(torch.zeros(32, 32, 3, dtype=torch.uint8), "one", 1.0)], None)
        assert Image.open(tmp_path / f"film.{suffix}").size == (256 + 2 * MARGIN_PIXELS, 256 + TITLE_PIXELS
                                                                + MARGIN_PIXELS)
