"""Classifier-free guidance: combines the conditional and the unconditional (null) output."""
import torch
import torch.nn.functional as F
from torch import Tensor


def project(x: Tensor, direction: Tensor) -> Tensor:
    """The component of each sample of x, (b, ...), parallel to the same sample of `direction`. Computed in float64."""
    unit = F.normalize(direction.flatten(1).double(), dim=1)
    parallel = (x.flatten(1).double() * unit).sum(dim=1, keepdim=True) * unit
    return parallel.view_as(x).to(x.dtype)


def combine(cond: Tensor, null: Tensor, cond_scale: float, rescaled_phi: float = 0.0,
            remove_parallel_component: bool = True) -> Tensor:
    """The guided output: cond + (cond_scale - 1) * (cond - null).

    Computed in float32, or in float64 if the outputs are that, and returned so: the difference of two numbers in half
    precision, times cond_scale - 1, would bring their rounding with it.

    cond, null: outputs of the conditional and the unconditional pass, (b, ...) each.
    cond_scale: 1 + w of Ho & Salimans 2022, eq. 6; 1: no guidance.
    remove_parallel_component: drop the component of the update that is parallel to `cond`. It causes oversaturation
        (Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales").
    rescaled_phi: in [0, 1]; how far the standard deviation of each sample is pulled back to that of `cond` (Lin et al.
        2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15 and 16).
    """
    dtype = torch.promote_types(cond.dtype, torch.float32)
    cond, null = cond.to(dtype), null.to(dtype)
    update = cond - null
    if remove_parallel_component:
        update = update - project(update, cond)
    guided = cond + update * (cond_scale - 1)
    if rescaled_phi == 0:
        return guided
    shape = (-1,) + (1,) * (cond.ndim - 1)
    ratio = (cond.flatten(1).std(dim=1) / guided.flatten(1).std(dim=1)).view(shape)
    return guided * (rescaled_phi * ratio + 1 - rescaled_phi)
