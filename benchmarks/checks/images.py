"""Drawing latents, and the full-size VAE: speed, and the effect of half precision."""
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.checks.check import Outcome, Setting, difference, switch
from benchmarks.measure import alternate
from groundwork.files import save_tensors
from microdoppler.data.latents import LatentScaling
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.assembly import build_diffusion
from microdoppler.pipeline.generation import ImageGenerator, Sampling, ready_to_sample
from vae.kl_vae import KL_VAE

MAX_LATENT_ERROR = 0.05     # of latents drawn with a graph, of the norm of those drawn without
MAX_VAE_ERROR = 0.06        # of the VAE in half precision, of the norm of its float32 results; its weights are random


def make_vae(setting: Setting, amp: bool = True) -> KL_VAE:
    """A VAE with random weights, loaded as in all scripts; of full size unless the setting is tiny."""
    torch.manual_seed(0)
    path = setting.scratch / "vae.pt"
    save_tensors(path, KL_VAE({"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1} if setting.is_tiny else None)
                 .checkpoint())
    return KL_VAE.load(path, setting.device, amp)


def drawing_latents(setting: Setting) -> Outcome:
    """Latents of a whole batch from noise, kernel by kernel and as a graph."""
    count, config = setting.count(64, 2), setting.config
    torch.manual_seed(0)
    diffusion = ready_to_sample(build_diffusion(config), True, setting.device)
    generator = ImageGenerator(config, diffusion, make_vae(setting), LatentScaling.identity(config.latent_channels), {},
                               None, Legend.of(None, config.num_users, Path("")), Sampling.constants_of(config))
    users = [1 + i % config.num_users for i in range(count)]

    def draw(graphs: bool) -> Tensor:
        switch(graphs)
        return generator.sample_latents(users, list(range(count))).clone()
    seconds = alternate(partial(draw, False), partial(draw, True), repeats=setting.count(5, 1), device=setting.device)
    error = difference(draw(False), draw(True))
    eager, graph = (1000 * value / count for value in seconds)
    return Outcome(error < MAX_LATENT_ERROR, f"{eager:.3g} ms per latent without a graph, {graph:.3g} ms with; they "
                   f"differ by {error:.2g} (below {MAX_LATENT_ERROR:g})",
                   {"eager_ms": eager, "graph_ms": graph, "error": error, "at_once": count})


def encoding_and_decoding(setting: Setting) -> Outcome:
    """The VAE in half precision and in float32: images per second, and how far the results are apart."""
    half_vae, full_vae, count = make_vae(setting), make_vae(setting, amp=False), setting.count(16, 2)
    side = setting.config.image_size
    images = torch.rand(count, full_vae.channels, side, side, device=setting.device)
    latents = full_vae.encode_images(images)
    figures: dict[str, Any] = {}
    for name, given in (("encode", images), ("decode", latents)):
        full, half = (partial(vae.encode_images if name == "encode" else vae.decode_latents, given)
                      for vae in (full_vae, half_vae))
        seconds = alternate(full, half, repeats=setting.count(10, 1), device=setting.device)
        figures[name] = {"float32_per_second": count / seconds[0], "half_per_second": count / seconds[1],
                         "error": difference(half(), full())}
    worst = max(value["error"] for value in figures.values())
    line = ", ".join(f"{name} {value['half_per_second']:.4g} images/s in half precision and "
                     f"{value['float32_per_second']:.4g} in float32" for name, value in figures.items())
    return Outcome(worst < MAX_VAE_ERROR, f"{line}; they differ by {worst:.2g} (below {MAX_VAE_ERROR:g})", figures)
