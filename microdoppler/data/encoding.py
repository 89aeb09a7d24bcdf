"""Images through the VAE's encoder, batch by batch. Several processes share the batches out among them."""
from itertools import islice
from pathlib import Path
from typing import Iterator, Protocol, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from groundwork.ahead import ahead, threads_beside
from groundwork.errors import InputError
from groundwork.memory import AdaptiveBatches
from groundwork.preparation import Preparation
from groundwork.progress import Progress
from microdoppler.data.stitching import Cut, load_cuts


class Posterior(Protocol):
    """The normal distributions N(mean, exp(logvar)) of the latents of a batch; both tensors are (b, c, h, w)."""
    mean: Tensor
    logvar: Tensor


class Encoder(Protocol):
    """What this module needs from a VAE. Scaled latents are scale_factor times a posterior sample."""
    scale_factor: float

    @property
    def channels(self) -> int:
        """Number of channels of the images."""

    def encode(self, images: Tensor, /) -> Posterior:
        """(b, channels, s, s) float32 in [0, 1] → posterior of each image."""

    def fingerprint(self) -> str:
        """VAEs with the same fingerprint encode to the same latents, up to rounding."""


def encoded_batches(vae: Encoder, data_path: str | Path, cuts: Sequence[Cut], image_size: int,
                    preparation: Preparation, batch_size: int, device: torch.device, processes: PartialState
                    ) -> Iterator[tuple[int, np.ndarray]]:
    """The posteriors of all cuts, in order: for each batch (place of its first cut, (b, 2, c, h, w) float16).

    The processes take turns with the batches. Each gets those of all, so all must go on to the end. The batches are
    those of a single process, and so are the posteriors. Raises InputError when an image cannot be read, or a latent
    is not finite in float16.
    """
    def read(start: int) -> Tensor:
        return load_cuts(data_path, cuts[start:start + batch_size], image_size, vae.channels, preparation)

    @torch.inference_mode()
    def posteriors(images: Tensor) -> Tensor:
        """(b, channels, s, s) uint8 → (b, 2, c, h, w) float16 on the CPU."""
        posterior = vae.encode(images.to(device).float() / 255)
        return torch.stack((posterior.mean, posterior.logvar), dim=1).half().cpu()

    parts, starts = AdaptiveBatches(batch_size, "image"), range(0, len(cuts), batch_size)
    own = starts[processes.process_index::processes.num_processes]
    batches = zip(own, ahead(read, own, threads_beside(device)))
    with Progress(total=len(cuts), desc="encoding", unit="image") as bar:
        for _ in range(0, len(starts), processes.num_processes):    # a round, in the last of which some have no batch
            for start, encoded in gather_object([(start, parts.map(posteriors, images).numpy())
                                                 for start, images in islice(batches, 1)]):
                if not np.isfinite(encoded).all():
                    raise InputError(f"the VAE gives NaN, infinity or numbers beyond 65 504 from {cuts[start].name} "
                                     "on; are its weights whole?")
                yield start, encoded
                bar.update(len(encoded))
