"""The texture of spectrograms, by measures that blur cannot please: power spectra and speckle contrast.

Both look at the channels of a picture, as the classifiers do. The colour map is not inverted: a blurred picture has
colours that the map has not, and the nearest ones that it has would pretend new detail. (Of the demo's images, a blur
of 1 px moves the radial spectrum by 19 dB in the channels, and by 5 dB after the colours have been inverted.)
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16                          # images at a time: about 100 MB at 256 px
SPECKLE_WINDOW = 5                  # pixels each way of the window of local mean and standard deviation
LEAST_POWER = 1 / 12 / 255 ** 2     # of rounding to whole bytes, per pixel: weaker than that, a spectrum says nothing


def power_spectra(images: Tensor) -> dict[str, np.ndarray]:
    """Power spectra of square images (n, c, s, s) uint8: {"radial" or "doppler": (n, s // 2) float64}.

    Bin k (from 1) has k cycles per image. radial: of both axes, the mean over the frequencies whose distance from 0
    rounds to k. doppler: along the Doppler axis alone, the mean over all columns. Pixels count as 0 … 1, the mean is
    taken off, a Hann window avoids leakage from the edges, and the power is the mean over the channels. White noise of
    variance v has v in all bins, but for the first two, which the window and the mean lower.
    """
    parts = [_spectra(chunk.double() / 255) for chunk in images.split(CHUNK)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _spectra(pixels: Tensor) -> dict[str, Tensor]:
    """`power_spectra` of pixels (n, c, s, s) float64."""
    size = pixels.shape[-1]
    window = torch.hann_window(size, dtype=pixels.dtype)
    power = window.square().sum()
    both = torch.fft.fft2((pixels - pixels.mean(dim=(2, 3), keepdim=True)) * window * window[:, None])
    doppler = torch.fft.rfft((pixels - pixels.mean(dim=2, keepdim=True)) * window[:, None], dim=2)
    radial = both.abs().square().mean(dim=1).flatten(1) / power ** 2
    cycles = torch.fft.fftfreq(size, 1 / size)
    bins = torch.hypot(cycles[:, None], cycles).round().long().flatten()
    sums = torch.zeros(len(pixels), int(bins.max()) + 1, dtype=pixels.dtype).index_add_(1, bins, radial)
    half = slice(1, size // 2 + 1)
    return {"radial": (sums / bins.bincount())[:, half],
            "doppler": (doppler.abs().square() / power).mean(dim=(1, 3))[:, half]}


def log_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The distance in dB between the mean spectra of two sets of images, (n, bins) and (m, bins): the root mean square
    over the bins of the difference of their levels (Gray & Markel 1976). 0 for equal spectra."""
    levels = [10 * np.log10(spectra.mean(axis=0) + LEAST_POWER) for spectra in (first, second)]
    return float(np.sqrt(np.mean((levels[0] - levels[1]) ** 2)))


def compare_texture(images: Tensor, reference: Tensor) -> dict[str, float]:
    """The texture of images (n, c, s, s) uint8 beside that of reference images (m, c, s, s): speckle, the ratio of
    their mean speckle contrasts, and the distances between their spectra, radial_db and doppler_db."""
    speckle, of_reference = (speckle_contrast(own).mean().item() for own in (images, reference))
    spectra = power_spectra(reference)
    return {"speckle": speckle / of_reference if of_reference else float("nan")} | {
        f"{name}_db": log_distance(own, spectra[name]) for name, own in power_spectra(images).items()}


def speckle_contrast(images: Tensor) -> Tensor:
    """The local standard deviation by the local mean: (n, c, h, w) uint8 → (n,) float32.

    The root of the sum of local variances by that of squared local means, over all places of a window of SPECKLE_WINDOW
    pixels and all channels. Of a homogeneous field it is the standard deviation by the mean: 1 for exponential values,
    as the intensity of fully developed speckle (Goodman 1976), and 1 / √L for the mean of L of them. A picture shows
    levels in dB in colours, so compare its contrast only with that of other pictures made in the same way. 0 for a
    black image.
    """
    return torch.cat([_contrast(chunk.double()) for chunk in images.split(CHUNK)]).float()


def _contrast(pixels: Tensor) -> Tensor:
    """`speckle_contrast` of pixels (n, c, h, w) float64."""
    count = SPECKLE_WINDOW ** 2
    mean, mean_square = (F.avg_pool2d(values, SPECKLE_WINDOW, stride=1) for values in (pixels, pixels.square()))
    variance = (mean_square - mean.square()).clamp(min=0) * count / (count - 1)
    # The square of a window's mean is too large by the variance of that mean.
    squared_mean = (mean.square() - variance / count).sum(dim=(1, 2, 3))
    return (variance.sum(dim=(1, 2, 3)) / squared_mean.clamp(min=1e-12)).sqrt()
