"""The latent cache: posterior of every training image, encoded once, in one memory-mapped file; standardisation.

    python -m microdoppler.latents --latents_cache_folder latents_cache --output latents.npz

float16 rounds a latent by 0.05 % at most; its posterior is wider than that.
"""
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundwork.errors import InputError
from groundwork.files import allocate, atomic_path, check_free_space, digest_file, load_array, read_json, write_json
from groundwork.lock import sole_writer
from groundwork.memory import AdaptiveBatches
from microdoppler.data.stitching import Cut, load_cuts

LATENTS_FILE, INDEX_FILE = "latents.npy", "latents.json"
CHUNK = 4096                # latents that are looked at together
RESIDENT_SHARE = 0.25       # of a device's free memory at most is for latents, the rest for the network


@dataclass(frozen=True)
class LatentScaling:
    """Between the VAE's scaled latents and what the diffusion model sees: (latents - mean) / std per channel."""
    mean: list[float]       # (channels,)
    std: list[float]        # (channels,)

    @staticmethod
    def identity(channels: int) -> "LatentScaling":
        return LatentScaling([0.0] * channels, [1.0] * channels)

    def standardize(self, latents: Tensor) -> Tensor:
        """(b, c, h, w) from the VAE → (b, c, h, w) for the diffusion model."""
        return (latents - self._per_channel(self.mean, latents)) / self._per_channel(self.std, latents)

    def restore(self, latents: Tensor) -> Tensor:
        """The inverse of standardize."""
        return latents * self._per_channel(self.std, latents) + self._per_channel(self.mean, latents)

    @staticmethod
    def _per_channel(values: list[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype).view(1, -1, 1, 1).to(like.device, non_blocking=True)


@dataclass(frozen=True)
class LatentStatistics:
    """Of the scaled latents that training draws, in closed form over the posteriors: per channel, and over all."""
    mean: list[float]       # (channels,)
    std: list[float]        # (channels,)
    min: float              # of one posterior sample of each image
    max: float

    @staticmethod
    def of(value: dict, source: str | Path) -> "LatentStatistics":
        """From plain values. Raises InputError when `source` holds others."""
        try:
            found = LatentStatistics(**value)
            channels = {len(found.mean), len(found.std)}
            np.array([*found.mean, *found.std, found.min, found.max], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source} holds no statistics of latents ({error})") from None
        if len(channels) > 1:
            raise InputError(f"{source} holds statistics of {channels} channels")
        return found

    def is_close(self, other: "LatentStatistics") -> bool:
        """Whether these are the same latents, encoded again perhaps on another machine or in another precision."""
        tolerance = 1e-3 * np.array(self.std)
        return len(self.std) == len(other.std) and bool(
            (abs(np.subtract(self.mean, other.mean)) < tolerance).all()
            and (abs(np.subtract(self.std, other.std)) < tolerance).all())

    def scaling(self, standardize: bool) -> LatentScaling:
        """To zero mean and unit variance per channel, or none at all."""
        return LatentScaling(self.mean, self.std) if standardize else LatentScaling.identity(len(self.mean))


class Posterior(Protocol):
    """N(mean, exp(logvar)) of a batch, (b, c, h, w) each."""
    mean: Tensor
    logvar: Tensor


class Encoder(Protocol):
    """A VAE, whose scaled latents are scale_factor times a sample of the posterior."""
    scale_factor: float

    @property
    def channels(self) -> int:
        """Of its images."""

    def encode(self, images: Tensor, /) -> Posterior:
        """(b, channels, s, s) in [0, 1] → posterior."""

    def fingerprint(self) -> str:
        """Equal when the latents are."""


class LatentCache:
    """posteriors: (n, 2, c, h, w) float16 (in older caches float32), memory-mapped, [:, 0] the mean and [:, 1] the
    log-variance, unscaled; labels: (n,) int64; scale_factor: what the VAE multiplies samples by; statistics: of the
    scaled latents, measured when not given.
    """

    def __init__(self, posteriors: np.ndarray, labels: Tensor, scale_factor: float,
                 statistics: LatentStatistics | None = None):
        self.posteriors, self.labels, self.scale_factor = posteriors, labels, scale_factor
        self.statistics = statistics or measure(posteriors, scale_factor)
        self.resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def keep_on(self, device: torch.device) -> None:
        """Where a CUDA device has room enough, draws on it are from its own memory from now on, not from the file."""
        if device.type == "cuda" and self.posteriors.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.empty(self.posteriors.shape, dtype=torch.float16, device=device)
            for start in range(0, len(self), CHUNK):
                self.resident[start:start + CHUNK] = torch.from_numpy(np.array(self.posteriors[start:start + CHUNK]))

    def scaled_means(self, indices: Tensor) -> Tensor:
        """The posterior means of these images, scaled, (b, c, h, w) float32 on the CPU."""
        return self.scale_factor * torch.from_numpy(self.posteriors[indices.numpy(), 0]).float()

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A fresh posterior sample of each index: (scaled latents (b, c, h, w) float32, labels (b,)), on the device of
        the generator."""
        device, labels = generator.device, self.labels[indices]
        if self.resident is not None and self.resident.device == device:
            posteriors = self.resident[indices.to(device, non_blocking=True)]
        else:
            posteriors = torch.from_numpy(self.posteriors[indices.numpy()]).to(device, non_blocking=True)
        mean, logvar = posteriors.float().unbind(dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        return self.scale_factor * (mean + torch.exp(0.5 * logvar) * noise), labels.to(device, non_blocking=True)

    def draw_any_of(self, label: int, generator: torch.Generator) -> Tensor:
        """A fresh posterior sample of an image of this user, whichever comes: (1, c, h, w)."""
        own = (self.labels == label).nonzero()[:, 0]
        return self.draw(own[torch.randint(len(own), (1,), generator=generator)], generator)[0]


def measure(posteriors: np.ndarray, scale_factor: float, chunk: int = CHUNK) -> LatentStatistics:
    """Variance = variance of the means + mean of the variances, accumulated in float64 chunk by chunk."""
    noise = np.random.default_rng(0)
    total = total_square = np.zeros(posteriors.shape[2])
    low, high, count = np.inf, -np.inf, 0
    for start in tqdm(range(0, len(posteriors), chunk), desc="measuring latents", unit="chunk", delay=1, leave=False,
                      disable=None):
        mean, logvar = (posteriors[start:start + chunk, i].astype(np.float64) for i in (0, 1))
        total = total + mean.sum(axis=(0, 2, 3))
        total_square = total_square + (mean ** 2 + np.exp(logvar)).sum(axis=(0, 2, 3))
        sample = mean + np.exp(0.5 * logvar) * noise.standard_normal(mean.shape)
        low, high = min(low, sample.min()), max(high, sample.max())
        count += mean.shape[0] * mean.shape[2] * mean.shape[3]
    mean = total / count
    std = np.sqrt(total_square / count - mean ** 2)
    return LatentStatistics((scale_factor * mean).tolist(), (scale_factor * std).tolist(),
                            float(scale_factor * low), float(scale_factor * high))


def load_or_encode(vae: Encoder, data_path: str | Path, cuts: Sequence[Cut], labels: Tensor, *, image_size: int,
                   folder: str | Path, batch_size: int, device: torch.device) -> LatentCache:
    """The cache in `folder`, encoded anew unless it was made by these VAE weights from these images at this size.

    cuts: of images in data_path; labels: (n,) int64.
    """
    folder = Path(folder)
    fingerprint = _fingerprint(vae, data_path, cuts, labels, image_size)
    if (found := _read_index(folder)).get("fingerprint") == fingerprint:
        try:
            return _open(folder, found)
        except InputError as error:
            print(f"warning: {error}; its images are encoded again")
    with sole_writer(folder):
        latents_file, index_file = folder / LATENTS_FILE, folder / INDEX_FILE
        _encode(vae, data_path, cuts, image_size, latents_file, batch_size, device)
        cache = LatentCache(load_array(latents_file), labels, vae.scale_factor)
        write_json(index_file, {"fingerprint": fingerprint, "image_size": image_size, "scale_factor": vae.scale_factor,
                                "statistics": asdict(cache.statistics), "sha256": digest_file(latents_file),
                                "images": [cut.name for cut in cuts], "labels": labels.tolist()})
    return cache


def _read_index(folder: Path) -> dict:
    """Empty where there is none that can be read: the cache can be made again."""
    try:
        index = read_json(folder / INDEX_FILE)
    except InputError:
        return {}
    return index if isinstance(index, dict) else {}


def load_cached(folder: str | Path, statistics: LatentStatistics | None = None) -> LatentCache:
    """The cache in `folder` as it is. Raises InputError when there is none, or one of other statistics than given."""
    index_file = Path(folder) / INDEX_FILE
    if not index_file.exists():
        raise InputError(f"{index_file} does not exist; give the folder that training encoded its images to with "
                         "--latents_cache_folder")
    index = read_json(index_file)
    if not (isinstance(index, dict) and "statistics" in index):
        raise InputError(f"{index_file} is no index of latents; delete it, and training encodes its images again")
    if statistics is not None and not LatentStatistics.of(index["statistics"], index_file).is_close(statistics):
        raise InputError(f"{folder} holds other latents than the checkpoint was trained on; give its own folder with "
                         "--latents_cache_folder")
    return _open(Path(folder), index)


def _open(folder: Path, index: dict) -> LatentCache:
    """The cache that an index describes. Raises InputError when the latents are not those that were written with it;
    to see that, they are read once."""
    file = folder / LATENTS_FILE
    try:
        posteriors, labels = load_array(file), torch.tensor(index["labels"])
        is_whole = len(posteriors) == len(labels) and index.get("sha256") in (None, digest_file(file))
        statistics = LatentStatistics.of(index["statistics"], folder / INDEX_FILE)
        scale_factor = float(index["scale_factor"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{file} cannot be read ({type(error).__name__}: {error})") from None
    if not is_whole:
        raise InputError(f"{file} is damaged")
    return LatentCache(posteriors, labels, scale_factor, statistics)


@torch.inference_mode()
def _encode(vae: Encoder, data_path: str | Path, cuts: Sequence[Cut], image_size: int, file: Path, batch_size: int,
            device: torch.device) -> None:
    def posteriors(images: Tensor) -> Tensor:
        posterior = vae.encode(images.to(device).float() / 255)
        return torch.stack((posterior.mean, posterior.logvar), dim=1).half().cpu()

    parts = AdaptiveBatches(batch_size, "image")
    with atomic_path(file) as temporary, tqdm(total=len(cuts), desc="encoding", unit="image", disable=None) as bar:
        stored = None
        for start in range(0, len(cuts), batch_size):
            images = load_cuts(data_path, cuts[start:start + batch_size], image_size, vae.channels)
            both = parts.map(posteriors, images).numpy()
            if not np.isfinite(both).all():
                raise InputError(f"the VAE gives NaN, infinity or numbers beyond 65 504 from {cuts[start].name} on; "
                                 "are its weights whole?")
            if stored is None:
                check_free_space(file.parent, len(cuts) * both[0].nbytes, "lower cuts_per_hop")
                stored = np.lib.format.open_memmap(temporary, "w+", np.float16, (len(cuts), *both.shape[1:]))
                allocate(temporary)
            stored[start:start + len(both)] = both
            bar.update(len(both))
        assert stored is not None
        stored.flush()
        file.with_name(INDEX_FILE).unlink(missing_ok=True)      # so that no moment pairs it with other latents


def _fingerprint(vae: Encoder, data_path: str | Path, cuts: Sequence[Cut], labels: Tensor, image_size: int) -> str:
    made_from = f"{vae.fingerprint()} {image_size} {labels.tolist()} {list(cuts)}"
    digest = hashlib.blake2b(made_from.encode(), digest_size=16)
    paths = dict.fromkeys(cut.path for cut in cuts)
    for path in tqdm(paths, desc="reading images", unit="image", delay=1, leave=False, disable=None):
        digest.update(path.encode() + hashlib.blake2b((Path(data_path) / path).read_bytes()).digest())
    return digest.hexdigest()


def check_range(statistics: LatentStatistics, *, auto_normalize: bool) -> None:
    """auto_normalize maps [0, 1] to [-1, 1]. Raises InputError when latents outside [0, 1] would go through it."""
    if auto_normalize and not is_unit_range(statistics.min, statistics.max):
        raise InputError(f"auto_normalize is True, but the latents lie in "
                         f"[{statistics.min:.3f}, {statistics.max:.3f}], "
                         "not in [0, 1]; set auto_normalize = False")


def is_unit_range(low: float, high: float) -> bool:
    return 0 <= low and high <= 1


def main(*, latents_cache_folder: Path = Path("latents_cache"), output: Path = Path("latents_cache/latents.npz")
         ) -> None:
    """Write the encoded training images as .npz, for NumPy, scikit-learn and the like.

    Arrays: means (n, channels, h, w) float32, the posteriors' means times scale_factor, as the VAE decodes them; labels
    (n,) int64, the user's number - 1; names (n,), of the images or of what was cut from them; scale_factor.

    Args:
        latents_cache_folder: the folder that training encoded its images to
        output: the file to write
    """
    if output.suffix != ".npz":
        raise InputError(f"--output {output}; expected a name that ends in .npz")
    cache = load_cached(latents_cache_folder)
    names = read_json(latents_cache_folder / INDEX_FILE).get("images")
    if not isinstance(names, list) or len(names) != len(cache):
        raise InputError(f"{latents_cache_folder / INDEX_FILE} does not name its {len(cache)} images; delete it, and "
                         "training encodes them again")
    means = cache.scaled_means(torch.arange(len(cache))).numpy()
    with atomic_path(output) as temporary:
        np.savez(temporary, means=means, labels=cache.labels.numpy(), names=np.array(names, dtype=str),
                 scale_factor=cache.scale_factor)
    print(f"{output}: means {means.shape}, labels, names, scale_factor")
