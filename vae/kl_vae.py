"""KL_VAE: a convolutional autoencoder between images and latents, with a Gaussian posterior.

It is the first stage of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G). Parameter
names and shapes are those of this project's first version, so its `kl_vae_best.pt` can be loaded. Weights in other
layouts are converted by vae/layouts.py.
"""
import copy
import hashlib
import json
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from groundwork.device import convolution_format, half_precision, in_memory_format
from groundwork.errors import InputError
from groundwork.files import digest_tensors, save_safetensors
from groundwork.seeding import seeded
from vae.layouts import check_fit, infer_shape, read_vae, without_grid
from vae.networks import Decoder, Encoder, Floor

# The 65 M parameter network of `kl_vae_best.pt`: 256×256 images ↔ 32×32 latents.
DDCONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,                  # channels at the images' resolution
    "ch_mult": (1, 2, 2, 4),    # channels per level, in multiples of ch; each level but the last halves the size
    "num_res_blocks": 2,        # per level of the encoder; the decoder has one more
    "z_channels": 4,
    "latent_diffusion": False,  # True: as there, images enter as -1 … 1, and downsampling pads right and bottom only
    "noise_inputs": False,      # True: the decoder makes speckle of noise, and upsamples without a grid (sharp VAEs)
}
SCALE_FACTOR = 0.18215          # scaled latents = scale_factor · posterior mean or sample
NOISE = 1                       # purpose of derived seeds: an image's latent may come from noise of the same seed


class DiagonalGaussian:
    """The posterior N(mean, diag(exp(logvar))) of a batch. `mean`, `logvar` and `std` are (batch, channels, h, w).

    parameters: mean and log-variance, (batch, 2 * channels, h, w). The log-variance is clamped to -30 … 20.
    """

    def __init__(self, parameters: Tensor):
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The most probable latents, which are the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One sample per image. The noise is drawn on the generator's device, so a CPU generator gives the same noise
        on every device.
        """
        device = self.mean.device if generator is None else generator.device
        return self.at(torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype))

    def at(self, noise: Tensor) -> Tensor:
        """The sample that this standard normal noise (batch, channels, h, w), on any device, gives."""
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1) in nats, (batch,): the sum over each image's latents."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


class KL_VAE(nn.Module):
    """The autoencoder of RGB or grey images in [0, 1]. As it is convolutional, their height and width can be any
    multiples of `downsample_factor`.

    ddconfig: values that replace those of DDCONFIG; an unknown key raises ValueError.
    embed_dim: channels of the latents; default: z_channels. 1x1 convolutions map between both.
    scale_factor: scaled latents = scale_factor * posterior mean or sample.
    """

    def __init__(self, ddconfig: dict | None = None, embed_dim: int | None = None, scale_factor: float = SCALE_FACTOR):
        super().__init__()
        unknown = sorted(set(ddconfig or {}) - set(DDCONFIG))
        if unknown:
            raise ValueError(f"unknown ddconfig entries {unknown}; expected some of {list(DDCONFIG)}")
        self.ddconfig = {**DDCONFIG, **(ddconfig or {})}
        self.ddconfig["ch_mult"] = tuple(self.ddconfig["ch_mult"])
        embed_dim = embed_dim or self.ddconfig["z_channels"]
        self.embed_dim, self.scale_factor = embed_dim, scale_factor
        self.image_size: int | None = None      # pixels, of the images it was trained on; None: unknown
        self.trained_on: str | None = None      # digest of their paths, as a split's train_images; None: unknown
        self.latents_of: str | None = None      # fingerprint of the VAE whose encoder it has kept; None: its own
        self._halved: tuple[KL_VAE, ...] = ()   # see compute_in; in a tuple, so that state_dict does not hold it
        self.encoder = Encoder(self.ddconfig)
        self.decoder = Decoder(self.ddconfig)
        self.quant_conv = nn.Conv2d(2 * self.ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, self.ddconfig["z_channels"], 1)
        if self.ddconfig["noise_inputs"]:
            self.floor = Floor(self.ddconfig["out_ch"])

    @property
    def channels(self) -> int:
        """Channels of the images: 3 (RGB) or 1 (grey)."""
        return self.ddconfig["in_channels"]

    @property
    def downsample_factor(self) -> int:
        """Height of the image / height of the latent; the same for the width."""
        return 2 ** (len(self.ddconfig["ch_mult"]) - 1)

    def latent_size(self, image_size: int) -> int:
        """Height and width of the latent of a square image. Raises InputError if downsample_factor does not divide
        image_size.
        """
        if image_size % self.downsample_factor:
            raise InputError(f"image_size {image_size} is no multiple of {self.downsample_factor}, "
                             "by which this VAE shrinks images; choose another image_size")
        return image_size // self.downsample_factor

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Images (batch, channels, height, width) in [0, 1] → posterior of the unscaled latents,
        (batch, embed_dim, h, w).

        It is float32 in every precision, because exp and sum in its KL overflow in float16.
        """
        x = 2 * x - 1 if self.ddconfig["latent_diffusion"] else x
        return DiagonalGaussian(self._compute(lambda vae, x: vae.quant_conv(vae.encoder(x)), x).float())

    def decode(self, z: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Unscaled latents (batch, embed_dim, h, w) → (batch, channels, height, width), near [0, 1] but not clamped.

        seeds: of each image's noise, which only a decoder with `noise_inputs` takes; default: 0, 1, … It is drawn on
        the CPU, so it is the same on every device and in every batch.
        """
        noise = self._noise(z, range(len(z)) if seeds is None else seeds) if self.ddconfig["noise_inputs"] else []
        x = self._compute(lambda vae, z: vae.decoder(vae.post_quant_conv(z), noise), z)
        x = (x + 1) / 2 if self.ddconfig["latent_diffusion"] else x
        return self.floor(x) if self.ddconfig["noise_inputs"] else x

    def _noise(self, z: Tensor, seeds: Sequence[int]) -> list[Tensor]:
        """Standard normal noise for each level of the decoder, the smallest first: (batch, 1, h · 2ⁱ, w · 2ⁱ)."""
        generators = [seeded(seed, NOISE) for seed in seeds]
        sizes = [[2 ** i * side for side in z.shape[2:]] for i in range(len(self.ddconfig["ch_mult"]))]
        return [torch.stack([torch.randn(1, *size, generator=generator) for generator in generators]).to(z.device)
                for size in sizes]

    def compute_in(self, dtype: torch.dtype | None) -> None:
        """From now on, encode and decode in this half precision, with a copy of the weights; None: in float32.

        The copy is made again when weights are loaded or moved. Weights that change otherwise need another call.
        A batch whose result is not finite is computed again in float32: activations of VAEs can be beyond 65 504, the
        largest float16. Inputs and results stay float32. Normalisation and attention keep their sums in float32.
        """
        self._halved = ()
        if dtype is not None:
            self._halved = (copy.deepcopy(self).to(dtype),)

    def _copy_again(self) -> None:
        self.compute_in(self._halved[0].quant_conv.weight.dtype if self._halved else None)

    def _apply(self, *args: Any, **kwargs: Any) -> "KL_VAE":
        super()._apply(*args, **kwargs)     # what to, cuda and float do
        self._copy_again()
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        result = super().load_state_dict(*args, **kwargs)
        self._copy_again()
        return result

    def _compute(self, network: Callable[["KL_VAE", Tensor], Tensor], x: Tensor) -> Tensor:
        """network(self, x) in the precision that compute_in chose, or else in that of the caller's autocast."""
        if not self._halved:
            return network(self, x)
        half, = self._halved
        with torch.autocast(x.device.type, enabled=False):
            result = network(half, x.to(half.quant_conv.weight.dtype)).float()
            return result if result.isfinite().all() else network(self, x)

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (batch, channels, height, width) in [0, 1] → scaled latents (batch, embed_dim, h, w).

        They are the posterior's mean; with a generator, a sample of the posterior.
        """
        posterior = self.encode(images)
        return self.scale_factor * (posterior.mode() if generator is None else posterior.sample(generator))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Scaled latents (batch, embed_dim, h, w) → images (batch, channels, height, width) in [0, 1]; seeds: as for
        decode."""
        return self.decode(latents / self.scale_factor, seeds).clamp(0, 1)

    def with_noise_inputs(self) -> "KL_VAE":
        """A copy with `noise_inputs`, to tune its decoder: the same latents, and the same fingerprint. Its images are
        nearly the same until then, and independent of the noise."""
        vae = KL_VAE({**self.ddconfig, "noise_inputs": True}, self.embed_dim, self.scale_factor)
        vae.load_state_dict(vae.state_dict() | without_grid(self.state_dict()))
        vae.image_size, vae.trained_on, vae.latents_of = self.image_size, self.trained_on, self.fingerprint()
        return vae

    def checkpoint(self) -> dict:
        """What `load` reads: the weights, and everything needed to build the network for them."""
        return {"model_state_dict": self.state_dict(), "embed_dim": self.embed_dim, "scale_factor": self.scale_factor,
                "image_size": self.image_size, "trained_on": self.trained_on, "latents_of": self.latents_of,
                "ddconfig": {**self.ddconfig, "ch_mult": list(self.ddconfig["ch_mult"])}}

    def save_safetensors(self, path: str | Path) -> None:
        """Write the checkpoint as a safetensors file, which `load` reads, too."""
        about = self.checkpoint()
        save_safetensors(path, about.pop("model_state_dict"), about)

    def fingerprint(self) -> str:
        """By what a cache of latents, and a diffusion model that was trained on them, know their VAE. VAEs with the
        same fingerprint give the same latents, up to rounding in another precision.

        It is the digest, or that of the VAE before if only the decoder has changed since.
        """
        return self.latents_of or self.digest()

    def digest(self) -> str:
        """SHA-256 of weights, shape and scale, in hexadecimal. VAEs with the same digest give the same images, too."""
        # Earlier versions lacked these entries: the fingerprints that they stored stay valid.
        ddconfig = {key: value for key, value in self.ddconfig.items()
                    if key not in ("latent_diffusion", "noise_inputs") or value}
        shape = [ddconfig, self.embed_dim, self.scale_factor]
        content = json.dumps(shape, sort_keys=True) + digest_tensors(self.state_dict())
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu", amp: bool = True) -> "KL_VAE":
        """Load a VAE for inference: in evaluation mode, without gradients.

        path: weights of vae.train, of latent-diffusion or of diffusers, in a PyTorch or a safetensors file; or a folder
            that diffusers wrote. Their shapes give the size of the network. Default scale factor: SCALE_FACTOR.
        amp: encode and decode in half_precision(device), where there is one; False: in float32. The weights are float32
            in both cases.

        Raises InputError if the file does not exist, is damaged, holds something else, or does not fit the network.
        """
        weights, about = read_vae(Path(path))
        ddconfig, embed_dim = infer_shape(path, weights)
        if {ddconfig["in_channels"], ddconfig["out_ch"]} not in ({1}, {3}):
            raise InputError(f"{path} turns images of {ddconfig['in_channels']} channels into images of "
                             f"{ddconfig['out_ch']}; expected 3 and 3 (RGB), or 1 and 1 (grey)")
        with torch.device("meta"):
            vae = cls(ddconfig, embed_dim, about.scale_factor or SCALE_FACTOR)
        vae.image_size, vae.trained_on, vae.latents_of = about.image_size, about.trained_on, about.latents_of
        check_fit(path, weights, vae.state_dict())
        vae.load_state_dict({key: weight.float() for key, weight in weights.items()}, assign=True)
        in_memory_format(vae.to(device), convolution_format(torch.device(device))).eval().requires_grad_(False)
        vae.compute_in(half_precision(torch.device(device)) if amp else None)
        return vae
