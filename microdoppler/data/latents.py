"""The latent cache: the VAE's posterior of every training image, encoded once into one memory-mapped file.

Also statistics and standardisation of latents. "Scaled latents" are posterior samples times the VAE's scale_factor.
Posteriors are stored as float16. That rounds a latent by 0.05 % at most, which is less than its posterior's width.
"""
import hashlib
from collections import deque
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from groundwork.errors import InputError, printable
from groundwork.files import allocate, atomic_path, check_free_space, digest_file, load_array, read_json, write_json
from groundwork.lock import sole_writer
from groundwork.preparation import Preparation
from groundwork.processes import init_distributed
from groundwork.progress import Progress
from microdoppler.data.encoding import Encoder, encoded_batches
from microdoppler.data.stitching import Cut

LATENTS_FILE, INDEX_FILE = "latents.npy", "latents.json"
CHUNK = 4096                # latents that are measured, or copied to a device, at a time
SAME_LATENTS = 0.02         # standard deviations; bfloat16 shifts the mean of a channel by 0.007, float16 by 0.0004
RESIDENT_SHARE = 0.25       # latents may take this share of a device's free memory; the rest is for the network


@dataclass(frozen=True)
class LatentScaling:
    """How scaled latents become the input of the diffusion model: (latents - mean) / std per channel."""
    mean: list[float]       # (channels,)
    std: list[float]        # (channels,)

    @staticmethod
    def identity(channels: int) -> "LatentScaling":
        """The scaling that changes nothing."""
        return LatentScaling([0.0] * channels, [1.0] * channels)

    def standardize(self, latents: Tensor) -> Tensor:
        """Scaled latents (b, c, h, w) → latents (b, c, h, w) for the diffusion model."""
        return (latents - _per_channel(self.mean, latents)) / _per_channel(self.std, latents)

    def restore(self, latents: Tensor) -> Tensor:
        """The inverse of standardize."""
        return latents * _per_channel(self.std, latents) + _per_channel(self.mean, latents)


def _per_channel(values: list[float], like: Tensor) -> Tensor:
    """(1, channels, 1, 1), with the dtype and on the device of `like`."""
    return _kept_per_channel(tuple(values), like.dtype, like.device)


@lru_cache      # on CUDA, copying it in every step would make the CPU wait
def _kept_per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the scaled latents that training draws from the posteriors.

    The names of the fields are keys in latents.json and in checkpoints.
    """
    mean: list[float]       # (channels,), exact: computed from the posteriors' parameters
    std: list[float]        # (channels,), likewise
    min: float              # over all channels of one posterior sample of each image
    max: float              # likewise

    @staticmethod
    def of(value: dict, source: str | Path) -> "LatentStatistics":
        """From a dict of plain values, read from `source`. Raises InputError when it has another form."""
        try:
            statistics = LatentStatistics(**value)
            channels = {len(statistics.mean), len(statistics.std)}
            np.array([*statistics.mean, *statistics.std, statistics.min, statistics.max], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source} holds no statistics of latents ({error})") from None
        if len(channels) > 1:
            raise InputError(f"{source} holds statistics of {channels} channels")
        return statistics

    def is_close(self, other: "LatentStatistics") -> bool:
        """Whether mean and std agree to SAME_LATENTS standard deviations in every channel.

        They do for the same latents, also when these were encoded on another machine or in another precision. They may
        for the latents of other persons, too: those of halves of simulated persons differ by 0.009 to 0.018.
        """
        tolerance = SAME_LATENTS * np.array(self.std)
        return len(self.std) == len(other.std) and bool(
            (abs(np.subtract(self.mean, other.mean)) < tolerance).all()
            and (abs(np.subtract(self.std, other.std)) < tolerance).all())

    def scaling(self, standardize: bool) -> LatentScaling:
        """The scaling to zero mean and unit variance per channel; with standardize=False the identity."""
        return LatentScaling(self.mean, self.std) if standardize else LatentScaling.identity(len(self.mean))


class LatentCache:
    """The posteriors of n training images.

    posteriors: (n, 2, c, h, w) float16 (float32 in older caches), memory-mapped, unscaled; [:, 0] is the mean and
    [:, 1] the log-variance. labels: (n,) int64, the user's place among the users. scale_factor: what the VAE multiplies
    samples by. statistics: of the scaled latents; measured here when not given. names: Cut.name of each image.
    fingerprint: of what they were encoded from, whatever the precision; None: unknown.
    """

    def __init__(self, posteriors: np.ndarray, labels: Tensor, scale_factor: float,
                 statistics: LatentStatistics | None = None, names: Sequence[str] = (),
                 fingerprint: str | None = None):
        self.posteriors, self.labels, self.scale_factor, self.names = posteriors, labels, scale_factor, names
        self.statistics, self.fingerprint = statistics or measure(posteriors, scale_factor), fingerprint
        self.resident: tuple[Tensor, Tensor] | None = None  # posteriors and labels in a GPU's memory, see keep_on

    def __len__(self) -> int:
        return len(self.labels)

    def keep_on(self, device: torch.device) -> None:
        """Copy the posteriors as float16 to a CUDA device, if they take less than RESIDENT_SHARE of its free memory.

        From then on `draw` reads the copy instead of the file, if the indices are on this device. Nothing is copied
        twice: CUDA graphs may read the first copy.
        """
        if self.resident is not None and self.resident[1].device == device:
            return
        if device.type == "cuda" and self.posteriors.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            posteriors = torch.empty(self.posteriors.shape, dtype=torch.float16, device=device)
            for start in range(0, len(self), CHUNK):
                posteriors[start:start + CHUNK] = torch.from_numpy(np.array(self.posteriors[start:start + CHUNK]))
            self.resident = posteriors, self.labels.to(device)

    def scaled_means(self, indices: Tensor) -> Tensor:
        """Posterior means times scale_factor of the images `indices` (b,) int64: (b, c, h, w) float32 on the CPU."""
        return self.scale_factor * torch.from_numpy(self.posteriors[indices.numpy(), 0]).float()

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a new posterior sample of each of the images `indices` (b,) int64, on the CPU or where keep_on copied
        the posteriors to.

        Returns (scaled latents (b, c, h, w) float32, labels (b,) int64), both on the generator's device. With indices
        on a GPU, the CPU need not wait for it.
        """
        device = generator.device
        if self.resident is not None and indices.device == device:
            posteriors, labels = (kept[indices] for kept in self.resident)
        else:
            posteriors = torch.from_numpy(self.posteriors[indices.numpy()]).to(device, non_blocking=True)
            labels = self.labels[indices].to(device, non_blocking=True)
        mean, logvar = posteriors.float().unbind(dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        return self.scale_factor * (mean + torch.exp(0.5 * logvar) * noise), labels

    def any_of(self, label: int, generator: torch.Generator) -> Tensor:
        """The index of a random image with this label: (1,) int64."""
        own = (self.labels == label).nonzero()[:, 0]
        return own[torch.randint(len(own), (1,), generator=generator)]


def measure(posteriors: np.ndarray, scale_factor: float, chunk: int = CHUNK) -> LatentStatistics:
    """Statistics of the scaled latents of posteriors (n, 2, c, h, w), summed up in float64, chunk by chunk.

    The variance of a channel is the variance of the posterior means plus the mean of the posterior variances (law of
    total variance). min and max are those of one posterior sample per image, drawn with random seed 0.
    """
    rng = np.random.default_rng(0)
    total = total_square = np.zeros(posteriors.shape[2])
    low, high, count = np.inf, -np.inf, 0
    for start in Progress(range(0, len(posteriors), chunk), desc="measuring latents", unit="chunk", delay=1,
                          leave=False):
        mean, logvar = (posteriors[start:start + chunk, i].astype(np.float64) for i in (0, 1))
        total = total + mean.sum(axis=(0, 2, 3))
        total_square = total_square + (mean ** 2 + np.exp(logvar)).sum(axis=(0, 2, 3))
        sample = mean + np.exp(0.5 * logvar) * rng.standard_normal(mean.shape)
        low, high = min(low, sample.min()), max(high, sample.max())
        count += mean.shape[0] * mean.shape[2] * mean.shape[3]
    mean = total / count
    std = np.sqrt(total_square / count - mean ** 2)
    return LatentStatistics((scale_factor * mean).tolist(), (scale_factor * std).tolist(),
                            float(scale_factor * low), float(scale_factor * high))


def load_or_encode(vae: Encoder, data_path: str | Path, cuts: Sequence[Cut], labels: Tensor, *, image_size: int,
                   folder: str | Path, batch_size: int, device: torch.device,
                   preparation: Preparation = Preparation()) -> LatentCache:
    """The latent cache in `folder`; the images are encoded unless it was made from the same input.

    The input is the VAE's weights, the image files, cuts, labels, image_size and preparation. cuts: n windows, with
    paths relative to data_path; labels: (n,) int64; image_size: in pixels; preparation: of the image files. Prints a
    warning when stored latents are damaged and are encoded again. Several processes (accelerate launch) share the
    images among them, and the main one writes the file.

    Raises InputError when an image cannot be read, the disk is too full, a latent is not finite in float16, or another
    process writes to the folder.
    """
    folder, processes = Path(folder), init_distributed(device)
    fingerprint = _fingerprint(vae, data_path, cuts, labels, image_size, preparation)
    cache = _load_same(folder, fingerprint)
    [is_stored] = broadcast_object_list([cache is not None])
    if is_stored:
        return cache or load_cached(folder, fingerprint=fingerprint)
    batches = encoded_batches(vae, data_path, cuts, image_size, preparation, batch_size, device, processes)
    if not processes.is_main_process:
        deque(batches, maxlen=0)
        processes.wait_for_everyone()
        return load_cached(folder, fingerprint=fingerprint)
    with sole_writer(folder):
        latents_file, index_file = folder / LATENTS_FILE, folder / INDEX_FILE
        _write(batches, len(cuts), latents_file)
        cache = LatentCache(load_array(latents_file), labels, vae.scale_factor, fingerprint=fingerprint)
        write_json(index_file, {"fingerprint": fingerprint, "image_size": image_size, "scale_factor": vae.scale_factor,
                                "statistics": asdict(cache.statistics), "sha256": digest_file(latents_file),
                                "images": [cut.name for cut in cuts], "labels": labels.tolist()})
    processes.wait_for_everyone()
    return cache


def _load_same(folder: Path, fingerprint: str) -> LatentCache | None:
    """The latent cache in `folder` if it has this fingerprint; None, and a warning if it is damaged, else."""
    if (index := _read_index(folder)).get("fingerprint") == fingerprint:
        try:
            return _open(folder, index)
        except InputError as error:
            print(printable(f"warning: {error}; its images are encoded again"))
    return None


def _read_index(folder: Path) -> dict:
    """The index of the cache; empty when there is no readable one, since the cache can be made again."""
    try:
        index = read_json(folder / INDEX_FILE)
    except InputError:
        return {}
    return index if isinstance(index, dict) else {}


def load_cached(folder: str | Path, statistics: LatentStatistics | None = None,
                fingerprint: str | None = None) -> LatentCache:
    """The latent cache in `folder`.

    statistics, fingerprint: of the latents that a checkpoint was trained on. Older checkpoints hold no fingerprint;
    then statistics are compared, which cannot tell similar data apart.

    Raises InputError when there is no cache, it is damaged, or it holds other latents.
    """
    index_file = Path(folder) / INDEX_FILE
    if not index_file.exists():
        raise InputError(f"{index_file} does not exist; give the folder that training encoded its images to with "
                         "--latents_cache_folder")
    index = read_json(index_file)
    if not (isinstance(index, dict) and "statistics" in index):
        raise InputError(f"{index_file} is no index of latents; delete it, and training encodes its images again")
    is_same = (index.get("fingerprint") == fingerprint if fingerprint is not None else
               statistics is None or LatentStatistics.of(index["statistics"], index_file).is_close(statistics))
    if not is_same:
        raise InputError(f"{folder} holds other latents than the checkpoint was trained on; give its own folder with "
                         "--latents_cache_folder")
    return _open(Path(folder), index)


def _open(folder: Path, index: dict) -> LatentCache:
    """The cache that an index describes.

    Raises InputError when the latents cannot be read or are not those that the index was written for. To check that,
    the file is read once and its SHA-256 compared; older indices have none.
    """
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
    return LatentCache(posteriors, labels, scale_factor, statistics, index.get("images", ()), index.get("fingerprint"))


def _write(batches: Iterator[tuple[int, np.ndarray]], count: int, file: Path) -> None:
    """Write the posteriors of `count` images to `file` as (n, 2, c, h, w) float16, and delete the index beside it."""
    with atomic_path(file) as temporary:
        stored = None
        for start, encoded in batches:
            if stored is None:
                check_free_space(file.parent, count * encoded[0].nbytes, "lower cuts_per_hop")
                stored = np.lib.format.open_memmap(temporary, "w+", np.float16, (count, *encoded.shape[1:]))
                allocate(temporary)
            stored[start:start + len(encoded)] = encoded
        assert stored is not None
        stored.flush()
        stored = None       # Windows renames no file that is mapped into memory
        # Deleted before the latents are replaced: an index must never stand beside latents that it was not written for.
        file.with_name(INDEX_FILE).unlink(missing_ok=True)


def _fingerprint(vae: Encoder, data_path: str | Path, cuts: Sequence[Cut], labels: Tensor, image_size: int,
                 preparation: Preparation) -> str:
    """A digest of all that the latents depend on, up to rounding. The default preparation is left out, as in older
    caches."""
    identities = ", ".join(cut.identity for cut in cuts)
    made_from = f"{vae.fingerprint()} {image_size} {labels.tolist()} [{identities}]"
    if preparation != Preparation():
        made_from += f" {preparation}"
    digest = hashlib.blake2b(made_from.encode(), digest_size=16)
    paths = dict.fromkeys(cut.path for cut in cuts)
    for path in Progress(paths, desc="reading images", unit="image", delay=1, leave=False):
        digest.update(path.encode() + hashlib.blake2b((Path(data_path) / path).read_bytes()).digest())
    return digest.hexdigest()


def check_range(statistics: LatentStatistics, *, auto_normalize: bool) -> None:
    """Raises InputError when auto_normalize, which maps [0, 1] to [-1, 1], would get latents outside [0, 1]."""
    if auto_normalize and not is_unit_range(statistics.min, statistics.max):
        raise InputError(f"auto_normalize is True, but the latents lie in "
                         f"[{statistics.min:.3f}, {statistics.max:.3f}], "
                         "not in [0, 1]; set auto_normalize = False")


def is_unit_range(low: float, high: float) -> bool:
    """Whether values in [low, high] lie in [0, 1]."""
    return 0 <= low and high <= 1
