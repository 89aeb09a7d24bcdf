"""Short-time Fourier transform of a slow-time signal, its level in dB, and the picture of that."""
import itertools
import math

import matplotlib
import numpy as np
import scipy       # loads its parts when they are used: all scripts import this, and few transform a signal
from PIL import Image

LIGHT_SPEED = 299_792_458.0
MOST_VALUES = 2 ** 22       # of a transform at once: 64 MB
# Magnitudes of noise are Rayleigh distributed. QUIET is a quantile of a channel's magnitudes that echoes hardly change,
# and MEAN_NOISE the mean of noise by this quantile of noise.
QUIET = 0.25
MEAN_NOISE = math.sqrt(math.pi / 4 / -math.log(1 - QUIET))


def bin_mps(carrier_hz: float, chirp_rate_hz: float, nfft: int) -> float:
    """Radial speed from one Doppler bin to the next: v = f λ / 2."""
    return chirp_rate_hz / nfft * LIGHT_SPEED / carrier_hz / 2


def speed_edges_mps(lowest_bin: int, num_bins: int, width_mps: float) -> tuple[float, float]:
    """Radial speeds at the lower edge of bin lowest_bin, and at the upper edge of the last of num_bins bins."""
    return (lowest_bin - 0.5) * width_mps, (lowest_bin + num_bins - 0.5) * width_mps


def stft_db(signals: np.ndarray, window_chirps: int, hop_chirps: int, nfft: int, lowest_bin: int,
            num_bins: int) -> np.ndarray:
    """Short-time Fourier transform with a Hann window of unit energy: power in dB, float32 (num_bins, columns).

    signals: complex (channels, chirps). The magnitudes of the channels (range gates, receivers) are added. White noise
    of power 1 per chirp has 0 dB on average, in one channel. Of several channels, the mean magnitude of each one's
    noise is subtracted: it would add up, while an echo is in few of them.
    nfft: length of the transform; above window_chirps, bins are interpolated.
    lowest_bin, num_bins: the Doppler bins that are kept, in descending order from the top. They are counted from zero
    Doppler, and modulo nfft, so an ambiguous speed may be shown where it is expected.

    A column begins every hop_chirps chirps, the first one at the first chirp. Only whole windows count.
    """
    window = np.hanning(window_chirps + 2)[1:-1]
    transform = scipy.signal.ShortTimeFFT(window / np.linalg.norm(window), hop_chirps, 1.0, mfft=nfft,
                                          fft_mode="twosided", phase_shift=None)
    columns = (signals.shape[-1] - window_chirps) // hop_chirps + 1
    order = (np.arange(num_bins)[::-1] + lowest_bin) % nfft
    magnitude, block = np.zeros((num_bins, columns)), max(1, MOST_VALUES // nfft)
    for signal, start in itertools.product(signals, range(0, columns, block)):
        stop = min(start + block, columns)
        # SciPy centres its windows on multiples of the hop. With this offset, they begin there.
        spectrum = transform.stft(signal, start, stop, k_offset=window_chirps // 2)
        if len(signals) == 1:
            magnitude[:, start:stop] = magnitudes(spectrum[order])
        else:
            own = magnitudes(spectrum)
            magnitude[:, start:stop] += own[order] - MEAN_NOISE * np.quantile(own, QUIET)
    magnitude = np.maximum(magnitude, 0)
    return (10 * np.log10(np.square(magnitude) + 1e-20)).astype(np.float32)


def magnitudes(spectrum: np.ndarray) -> np.ndarray:
    """The magnitudes of complex numbers. It is faster than np.abs, which also avoids overflow."""
    return np.sqrt(np.square(spectrum.real) + np.square(spectrum.imag))


def automatic_gain(spectrogram: np.ndarray, columns: int) -> np.ndarray:
    """A spectrogram in dB after slow automatic gain control. The peaks of the columns are averaged over `columns`
    columns around each column, and the average is subtracted.
    """
    peaks = spectrogram.max(axis=0)
    return spectrogram - scipy.ndimage.uniform_filter1d(peaks, 2 * (columns // 2) + 1, mode="nearest")


def render_image(spectrogram: np.ndarray, levels_db: tuple[float, float], image_size: int,
                 channels: int = 3) -> np.ndarray:
    """A spectrogram in dB, (bins, columns), as an image, uint8.

    Values are clipped to levels_db, floor and top. With 3 channels they become jet colours,
    (image_size, image_size, 3). With 1 channel they become grey values, (image_size, image_size). Cells of the
    spectrogram keep sharp edges.
    """
    floor, top = levels_db
    fraction = np.clip((spectrogram - floor) / (top - floor), 0, 1)
    colours = matplotlib.colormaps["jet" if channels == 3 else "gray"](fraction, bytes=True)
    image = Image.fromarray(colours[..., :3] if channels == 3 else colours[..., 0].copy())
    enlarged = max(image_size, *image.size)
    image = image.resize((enlarged, enlarged), Image.Resampling.NEAREST)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BOX))
