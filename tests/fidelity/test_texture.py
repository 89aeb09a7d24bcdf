"""The texture of images, against closed forms: power spectra of white and of low-passed noise, contrast of speckle."""
import numpy as np
import pytest
import torch

from microdoppler.fidelity.texture import compare_texture, log_distance, power_spectra, speckle_contrast

SIZE, SIGMA = 64, 40.0      # pixels; standard deviation of the noise, of 255


def noise(count: int = 24, transfer: np.ndarray | None = None) -> torch.Tensor:
    """White noise (count, 3, SIZE, SIZE), filtered by a transfer function (SIZE, SIZE) of both frequencies."""
    field = np.random.default_rng(0).normal(0, SIGMA, (count, 3, SIZE, SIZE))
    if transfer is not None:
        field = np.fft.ifft2(np.fft.fft2(field) * transfer).real
    return torch.from_numpy((128 + field).round().clip(0, 255)).byte()


def gaussian(blur: float) -> np.ndarray:
    """The transfer function of a Gaussian blur of so many pixels, along both axes."""
    along = np.exp(-2 * (np.pi * np.fft.fftfreq(SIZE) * blur) ** 2)
    return along[:, None] * along


def test_white_noise_has_its_variance_at_all_frequencies():
    for name, spectra in power_spectra(noise()).items():
        assert spectra.shape == (24, SIZE // 2)
        assert spectra.mean(axis=0)[2:] == pytest.approx((SIGMA / 255) ** 2, rel=0.12), name


@pytest.mark.parametrize("blur", [0.5, 0.8])
def test_low_passed_noise_has_the_spectrum_of_its_filter(blur):
    """The radial spectrum of a Gaussian blur is exp(−(2π f σ)²); along Doppler, the mean over all times lowers it."""
    expected = np.exp(-(2 * np.pi * np.arange(1, SIZE // 2 + 1) / SIZE * blur) ** 2)
    white, blurred = power_spectra(noise()), power_spectra(noise(transfer=gaussian(blur)))
    of_times = np.exp(-(2 * np.pi * np.fft.fftfreq(SIZE) * blur) ** 2).mean()
    for name, wanted in (("radial", expected), ("doppler", expected * of_times)):
        ratio = blurred[name].mean(axis=0) / white[name].mean(axis=0)
        assert ratio[2:24] == pytest.approx(wanted[2:24], rel=0.1), name
        level = 10 * np.log10(wanted)
        assert log_distance(blurred[name], white[name]) == pytest.approx(np.sqrt(np.mean(level ** 2)), rel=0.1)


def test_a_wave_along_doppler_is_seen_in_its_bin_and_one_along_time_only_in_the_radial_spectrum():
    wave = (128 + 100 * torch.cos(2 * torch.pi * 10 * torch.arange(SIZE) / SIZE)).byte()
    along_doppler, along_time = (power_spectra(image.expand(1, 1, SIZE, SIZE)) for image in (wave[:, None], wave))
    assert along_doppler["doppler"].argmax() == along_doppler["radial"].argmax() == along_time["radial"].argmax() == 9
    assert along_time["doppler"].max() < 1e-20


def test_the_distance_is_that_of_the_levels_and_finite_for_flat_images():
    spectra = np.random.default_rng(0).uniform(1, 2, (5, 12))
    assert log_distance(spectra, spectra) == 0
    assert log_distance(2 * spectra, spectra) == pytest.approx(10 * np.log10(2), abs=1e-4)
    flat = power_spectra(torch.full((2, 3, SIZE, SIZE), 9, dtype=torch.uint8))
    assert 30 < log_distance(flat["radial"], power_spectra(noise())["radial"]) < 60


@pytest.mark.parametrize("looks", [1, 4, 16])
def test_contrast_of_speckle_is_one_by_the_root_of_the_looks(looks):
    """Gamma-distributed intensities: the mean of so many independent exponential ones (Goodman 1976)."""
    scale = {1: 20.0, 4: 40.0, 16: 80.0}[looks]         # bright enough for whole bytes, and hardly ever above 255
    field = np.random.default_rng(0).gamma(looks, scale / looks, (8, 3, 128, 128)).round().clip(0, 255)
    assert speckle_contrast(torch.from_numpy(field).byte()).numpy() == pytest.approx(looks ** -0.5, rel=0.02)


def test_contrast_does_not_depend_on_brightness_and_slow_changes_hardly_count():
    speckle = np.random.default_rng(0).gamma(9, 1 / 9, (4, 1, 128, 128))
    bright = 30 + 50 * np.sin(np.linspace(0, np.pi, 128))
    images = [torch.from_numpy((speckle * level).clip(0, 255)).byte() for level in (40, 80, bright)]
    contrasts = [speckle_contrast(image).mean().item() for image in images]
    assert contrasts == pytest.approx([1 / 3] * 3, rel=0.04)
    assert speckle_contrast(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).tolist() == [0, 0]


def test_grey_images_have_the_texture_of_the_same_images_in_three_channels():
    grey, other = noise(4)[:, :1], noise(6, gaussian(0.7))[:, :1]
    assert compare_texture(grey, other) == pytest.approx(compare_texture(grey.expand(-1, 3, -1, -1),
                                                                         other.expand(-1, 3, -1, -1)))
    assert compare_texture(grey, grey) == {"speckle": 1, "radial_db": 0, "doppler_db": 0}
