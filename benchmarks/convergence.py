"""Steps that our model needs until its images are as good as the reference's:  python -m benchmarks.convergence …

Needs a finished run of train_latent_cfg.py; give the same constants. The reference network is trained on the latents of
the same images (the means of their posteriors, which are what is usually stored) with as many images per step. Images
are generated from our model at every milestone, and from the reference at its end. Both are compared with held-out real
images by KID.
"""
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import reference
from benchmarks.measure import machine
from denoising_diffusion_pytorch.checkpoint import list_milestones, load_checkpoint, milestone_path
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.files import write_json
from groundwork.images import save_image
from groundwork.progress import Progress
from microdoppler.fidelity.measure import main as measure_fidelity
from microdoppler.pipeline.assembly import open_cache, open_data, open_vae
from microdoppler.pipeline.constants import check_constants
from microdoppler.pipeline.generation import Sampling
from microdoppler.pipeline.synthetic_folder import generate
from train_latent_cfg import PRESETS, Config
from vae.kl_vae import KL_VAE

OUR_SAMPLINGS = {"ours": Sampling(noise_level=1.0), "variations": Sampling(noise_level=0.75)}


def main(config: Config, *, reference_steps: int | None = None, same_constants: bool = False,
         output: Path = Path("results/convergence"), samples_per_user: int = 30,
         json: Path | None = None) -> list[dict[str, Any]]:
    """Compare KID during training with denoising-diffusion-pytorch 2.2.5. Each model uses its own sampler.

    Our images are generated from noise alone ("ours") and from noised training images (noise_level 0.75, "variations"),
    as for a study. The reference learns raw latents with min-SNR weights and cond_drop_prob 0.5, and samples with 250
    steps of DDIM.

    Args:
        reference_steps: training steps of the reference; default: as many as ours
        same_constants: train and sample the reference with the learning rate, EMA and guidance of the given constants;
            default: with those of its README
        output: folder for the images and their fidelity
        samples_per_user: images of each user at each milestone
        json: also write the results to this file
    """
    check_constants(config)
    device, milestones = choose_device(config.device), list_milestones(config.results_folder)
    if not milestones:
        raise InputError(f"no checkpoint in {config.results_folder}; run train_latent_cfg.py with these constants")
    config, vae = open_vae(config, device)
    config, data = open_data(config)
    cache = open_cache(config, data, vae, device)
    reference_config = replace(config, cond_drop_prob=0.5, **({} if same_constants else reference.README_CONSTANTS))
    rows: dict[int, dict[str, Any]] = {}
    for milestone in milestones:
        path = milestone_path(config.results_folder, milestone)
        rows[step := load_checkpoint(path)["step"]] = {}
        for name, sampling in OUR_SAMPLINGS.items():
            folder = output / f"{name}-{step}"
            generate(checkpoint=path, all_users=True, samples_per_user=samples_per_user, output_dir=folder,
                     sampling=sampling, vae_path=config.vae_path, latents_cache_folder=config.latents_cache_folder,
                     device=config.device)
            rows[step][name] = fidelity_of(config, folder)
    torch.manual_seed(config.seed)
    training = reference.Training(reference_config, (cache.scaled_means(torch.arange(len(cache))) + 1) / 2,
                                  cache.labels, device)
    num_steps = reference_steps or max(rows)
    for _ in Progress(range(num_steps), desc="training the reference", unit="step"):
        training.step()
    folder = output / f"reference-{num_steps}"
    for user in data.split.users:
        sample_reference(training, vae, user, samples_per_user, reference_config.cond_scale, folder)
    rows.setdefault(num_steps, {})["reference"] = fidelity_of(config, folder)
    found = [{"step": step, **rows[step]} for step in sorted(rows)]
    print("\n| step | KID, ours | KID, ours, variations | KID, reference |\n|---|---|---|---|")
    for row in found:
        print(f"| {row['step']} | " + " | ".join(
            f"{row[name]['kid']:.2f} ± {row[name]['kid_error']:.2f}" if name in row else "" for name in (
                *OUR_SAMPLINGS, "reference")) + " |")
    print("\n".join(f"{name}: {conclusion(found, name)}" for name in OUR_SAMPLINGS))
    if json:
        write_json(json, {"machine": machine(device), "same_constants": same_constants, "rows": found})
        print(f"written: {json}")
    return found


@torch.no_grad()
def sample_reference(training: reference.Training, vae: KL_VAE, user: int, count: int, cond_scale: float,
                     folder: Path) -> None:
    """Write `count` images of a user (1, 2, …) to `folder`, from the averaged (EMA) weights of the reference."""
    diffusion = training.ema.ema_model.eval()
    classes = torch.full((count,), user - 1, device=training.device)
    latents = diffusion.sample(classes, cond_scale=cond_scale) * 2 - 1      # sample returns [0, 1]
    for i, latent in enumerate(latents, start=1):
        image = (vae.decode_latents(latent[None])[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        save_image(folder / f"ID_{user}" / f"ID{user}_reference_Doppler{i}.png", image)


def fidelity_of(config: Config, folder: Path) -> dict[str, float]:
    """The metrics of `microdoppler.fidelity` over all users: kid, kid_error (standard error), recognised, copies …"""
    report = measure_fidelity(config.data_path, folder, split=config.latents_cache_folder / "data_split.json",
                              output=folder.with_name(folder.name + "-fidelity"), device=config.device)
    return report["all"]["synthetic"]


def conclusion(rows: list[dict], name: str) -> str:
    """After how many steps the KID of the images called `name` is as low as the reference's; rows: by rising step."""
    end, last = next((row["step"], row["reference"]["kid"]) for row in rows if "reference" in row)
    if not math.isfinite(last) or not any(math.isfinite(row[name]["kid"]) for row in rows if name in row):
        return "unknown, as a KID is NaN: it needs more images, or more passes, of each user"
    reached = next((row["step"] for row in rows if name in row and row[name]["kid"] <= last), None)
    if reached is None:
        return f"the reference's last KID, {last:.2f}, is not reached"
    return (f"the reference's last KID, {last:.2f} after {end} steps, is reached by step {reached}: "
            f"{reached / end:.2f} of its steps at most")


if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
