"""Sharpening: the decoder against a patch discriminator, as in the first stage of latent diffusion.

Sources: Rombach et al. 2022 (arXiv:2112.10752, appendix G); Esser et al. 2021 (arXiv:2012.09841, section 3.1).
"""
import torch
from torch import Tensor

from groundwork.device import autocast
from groundwork.seeding import derive_seed, global_seed
from vae.discriminator import MOST_WIDTH, PatchDiscriminator, as_written
from vae.kl_vae import KL_VAE
from vae.losses import adversarial_loss, combined_gradient, discriminator_loss, feature_distance, mean_error

ADVERSARIAL_WEIGHT = 0.5    # of the adversarial loss
FEATURE_WEIGHT = 0.1        # 1, with an adversarial weight of 1, broke up the torso's line (64 px, 250 steps)
BETAS = 0.5, 0.9            # of the discriminator's Adam, as in latent diffusion
NUM_SEEDS = 2 ** 62         # of the decoder's noise


class Adversary:
    """The discriminator, its optimiser, and the gradients of a step of sharpening.

    weight: of the adversarial loss.
    """

    def __init__(self, vae: KL_VAE, device: torch.device, weight: float, seed: int):
        with global_seed(derive_seed(seed), torch.device("cpu")):
            self.discriminator = PatchDiscriminator(vae.channels, min(MOST_WIDTH, 2 * vae.ddconfig["ch"])).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), betas=BETAS)
        self.device, self.weight = device, weight

    def backward(self, vae: KL_VAE, images: Tensor, noise: Tensor, seeds: Tensor, scaler: torch.amp.GradScaler
                 ) -> Tensor:
        """Compute the gradients of the decoder and of the discriminator, scaled by `scaler`. Returns the mean error
        plus the weighted feature distance, a scalar.

        Both networks get their gradients from the same images, each of them decoded twice, so the discriminator is
        computed once in a step.

        images: (batch, channels, height, width) in [0, 1].
        noise: of their latents, (batch, embed_dim, h, w).
        seeds: of the decoder's noise, (2, batch) int64.
        """
        count = len(images)
        with autocast(self.device):
            with torch.no_grad():
                latents = vae.encode(images).at(noise)
            decoded = vae.decode(torch.cat((latents, latents)), seeds.flatten().tolist()).float()
            scores, features = self.discriminator(torch.cat((images, as_written(decoded))))
        real, fake = scores[:count], scores[count:]
        scaler.scale(discriminator_loss(real, fake)).backward(inputs=list(self.discriminator.parameters()),
                                                              retain_graph=True)
        targets, first, second = zip(*(layer.split(count) for layer in features))
        loss = (mean_error(decoded[:count], decoded[count:], images)
                + FEATURE_WEIGHT * feature_distance(first, second, [target.detach() for target in targets]))
        decoded.backward(combined_gradient(decoded, scaler.scale(loss), scaler.scale(adversarial_loss(fake)),
                                           vae.decoder.conv_out.weight, self.weight))
        return loss.detach()

    def update(self, lr: float, scaler: torch.amp.GradScaler) -> None:
        """A step of the discriminator with the gradients of `backward`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        scaler.step(self.optimizer)
        self.optimizer.zero_grad()

    def state(self) -> dict:
        """Everything that resuming needs."""
        return {"discriminator": self.discriminator.state_dict(),
                "discriminator_optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict) -> None:
        """Go on from what `state` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["discriminator_optimizer"])
