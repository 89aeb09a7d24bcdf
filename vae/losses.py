"""The losses of vae.train.

    autoencoding    mean |x − x̂| + 2 · mean (x − x̂)² + kl_weight · KL / number of pixel values
    sharpening      mean error + feature_weight · feature distance + λ · adversarial_weight · adversarial loss

The L1 term of autoencoding keeps the thin bright traces sharp, and the L2 term keeps PSNR high. Both are smallest for
the mean of all images that a latent may stand for. This mean has no speckle.

Sharpening trains the decoder alone. It decodes every latent twice, with other noise. The two errors are independent, so
the mean of their product is the squared error of the mean image, without a bias (see `mean_error`): speckle costs
nothing as long as it is right on average. Ohayon et al. 2021 (arXiv:2103.04192) penalise the mean in the same sense.

When several processes share a batch evenly, the mean of their losses is that of the whole batch. For this, what a loss
is divided by, and the norms in λ, are those of the whole batch.
"""
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from groundwork.processes import average_over_processes
from vae.kl_vae import KL_VAE

MAX_ADAPTIVE_WEIGHT = 1e4
TINY = torch.finfo(torch.float32).tiny     # instead of 0 in denominators


def autoencoding_loss(vae: KL_VAE, images: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
    """The loss of autoencoding for images (batch, channels, height, width) in [0, 1] and noise of their latents
    (batch, embed_dim, h, w), a scalar. The network runs under the caller's autocast, the loss in float32."""
    posterior = vae.encode(images)
    error = vae.decode(posterior.at(noise)).float() - images
    return error.abs().mean() + 2 * error.square().mean() + kl_weight * posterior.kl().sum() / images.numel()


def mean_error(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    """An unbiased estimate of the mean squared error of E[x̂] from two independent draws of x̂, a scalar:
    E[(x̂₁ − x)(x̂₂ − x)] = (E[x̂] − x)². It may be below 0. All are tensors of the same shape."""
    return ((first - target) * (second - target)).mean()


def feature_distance(first: Sequence[Tensor], second: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """The mean_error of a network's features, layer by layer, relative to the mean square of the target's; a scalar.

    With the layers of the discriminator it is the learned similarity of Larsen et al. 2016 (arXiv:1512.09300, equation
    7), which needs no network from elsewhere.
    """
    squares = [layer.float().square().mean() for layer in target]
    average_over_processes(squares)
    distances = [mean_error(*(features.float() for features in layer)) / square
                 for *layer, square in zip(first, second, target, squares)]
    return torch.stack(distances).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of scores that should be above 1 for real images and below -1 for others (Lim & Ye 2017,
    arXiv:1705.02894); a scalar."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adversarial_loss(fake: Tensor) -> Tensor:
    """Hinge loss of the decoder for the scores of its images, a scalar."""
    return -fake.float().mean()


def combined_gradient(decoded: Tensor, error: Tensor, adversarial: Tensor, last_layer: Tensor, weight: float) -> Tensor:
    """The gradient of error + λ · weight · adversarial with respect to the decoded images, in their shape.

    λ = ‖∇ error‖ / ‖∇ adversarial‖ at the weights of the decoder's last layer (Esser et al. 2021, arXiv:2012.09841,
    equation 7), so that neither of them drowns the other. error, adversarial: scalars. What is not finite stays so, and
    a GradScaler leaves the step out.
    """
    gradients = [torch.autograd.grad(loss, decoded, retain_graph=True)[0] for loss in (error, adversarial)]
    norms = [_norm_at(last_layer, decoded, gradient) for gradient in gradients]
    adaptive = (norms[0] / norms[1].clamp(min=TINY)).clamp(max=MAX_ADAPTIVE_WEIGHT)
    return gradients[0] + weight * adaptive * gradients[1]


def _norm_at(layer: Tensor, decoded: Tensor, gradient: Tensor) -> Tensor:
    """The norm of a loss's gradient at the weights `layer`; gradient: that with respect to the decoded images.

    It goes back with length 1, on average over processes: scaled against underflow, the adversarial one would overflow
    in float16.
    """
    length = gradient.norm()
    average_over_processes([length])
    length = length.clamp(min=TINY)
    at_layer = torch.autograd.grad(decoded, layer, gradient / length, retain_graph=True)[0].float()
    average_over_processes([at_layer])
    return length * at_layer.norm()
