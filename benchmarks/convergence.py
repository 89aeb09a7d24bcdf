"""After how many steps the images are as good as the reference's last ones:  python -m benchmarks.convergence …

Takes a finished run of train_latent_cfg.py, and its constants; trains the reference's network on the same images'
latents (their posteriors' means, as it is usual to store them) for as many steps of as many images, draws images from
both at every milestone, and compares them with held-out real images.
"""
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import generate
from assembly import open_cache, open_split, open_vae
from benchmarks import reference
from benchmarks.measure import machine
from denoising_diffusion_pytorch.checkpoint import list_milestones, load_checkpoint, milestone_path
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.files import write_json
from groundwork.images import save_image
from microdoppler import fidelity
from train_latent_cfg import PRESETS, Config, check_constants
from vae.kl_vae import KL_VAE


def main(config: Config, *, same_constants: bool = False, output: Path = Path("results/convergence"),
         samples_per_user: int = 30, json: Path | None = None) -> list[dict[str, Any]]:
    """Compare KID through training with denoising-diffusion-pytorch 2.2.5, each drawn with its own sampler.

    The reference learns raw latents with min-SNR weights, hides half of the users, and draws with 250 steps of DDIM.

    Args:
        same_constants: train and draw the reference with the learning rate, the average of weights and the guidance of
            the constants given; default: with those of its README
        output: gets the images and their fidelity
        samples_per_user: images of each user at each milestone
        json: also write the figures there
    """
    check_constants(config)
    of_reference = replace(config, cond_drop_prob=0.5, **({} if same_constants else reference.README))
    device, milestones = choose_device(config.device), list_milestones(config.results_folder)
    if not milestones:
        raise InputError(f"no checkpoint in {config.results_folder}; run train_latent_cfg.py with these constants")
    split, vae = open_split(config), open_vae(config, device)
    cache = open_cache(config, split, vae, device)
    torch.manual_seed(config.seed)
    theirs = reference.Training(of_reference, (cache.scaled_means(torch.arange(len(cache))) + 1) / 2, cache.labels,
                                device)
    rows, done = [], 0
    for milestone in milestones:
        step = load_checkpoint(milestone_path(config.results_folder, milestone))["step"]
        for _ in tqdm(range(step - done), desc="training the reference", unit="step", disable=None):
            theirs.step()
        done = step
        for user in split.users:
            draw_reference(theirs, vae, user, samples_per_user, of_reference.cond_scale,
                           output / f"reference-{milestone}")
        generate.main(checkpoint=milestone_path(config.results_folder, milestone), all_users=True,
                      samples_per_user=samples_per_user, output_dir=output / f"ours-{milestone}",
                      vae_path=config.vae_path, latents_cache_folder=config.latents_cache_folder, device=config.device)
        found = {name: judged(config, output / f"{name}-{milestone}") for name in ("ours", "reference")}
        rows.append({"step": step, **found})
    print("\n| step | KID, ours | KID, reference |\n|---|---|---|")
    for row in rows:
        print(f"| {row['step']} | " + " | ".join(f"{row[name]['kid']:.2f} ± {row[name]['kid_error']:.2f}"
                                                 for name in ("ours", "reference")) + " |")
    print(conclusion(rows))
    if json:
        write_json(json, {"machine": machine(device), "same_constants": same_constants, "rows": rows})
        print(f"written: {json}")
    return rows


@torch.no_grad()
def draw_reference(training: reference.Training, vae: KL_VAE, user: int, count: int, cond_scale: float,
                   folder: Path) -> None:
    """`count` images of a user, from the average of the reference's weights."""
    diffusion = training.ema.ema_model.eval()
    classes = torch.full((count,), user - 1, device=training.device)
    latents = diffusion.sample(classes, cond_scale=cond_scale) * 2 - 1      # it returns what it takes: [0, 1]
    for i, latent in enumerate(latents, start=1):
        image = (vae.decode_latents(latent[None])[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        save_image(folder / f"ID_{user}" / f"ID{user}_reference_Doppler{i}.png", image)


def judged(config: Config, folder: Path) -> dict[str, float]:
    """Of all users: KID with its standard error, recognised, copies and the others of `microdoppler.fidelity`."""
    figures = fidelity.main(config.data_path, folder, split=config.latents_cache_folder / "data_split.json",
                            output=folder.with_name(folder.name + "-fidelity"), device=config.device)
    return figures["all"]["synthetic"]


def conclusion(rows: list[dict]) -> str:
    last = rows[-1]["reference"]["kid"]
    reached = next((row["step"] for row in rows if row["ours"]["kid"] <= last), None)
    if reached is None:
        return f"the reference's last KID, {last:.2f}, is not reached"
    return (f"the reference's last KID, {last:.2f} after {rows[-1]['step']} steps, is reached by step {reached}: "
            f"{reached / rows[-1]['step']:.2f} of its steps at most")


if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
