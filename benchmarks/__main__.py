"""How fast this is, beside the reference and beside the machine:  python -m benchmarks --device cuda"""
import dataclasses
import tempfile
from pathlib import Path

import torch

from benchmarks.measure import machine, machine_rates
from benchmarks.reference import DDIM_STEPS
from benchmarks.rows import ROWS, Bench, difference_from_reference, forward_gflop
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.files import save_tensors, write_json
from microdoppler import simulate
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE

NUM_USERS, IMAGES_PER_USER = 4, 80      # simulated, for the rows that read image files


def main(*, device: str = "auto", quick: bool = False, json: Path | None = None, only: tuple[str, ...] = ()):
    """Time the default Config against denoising-diffusion-pytorch 2.2.5, in turn, and print medians and ratios.

    Args:
        device: auto, cpu, cuda or cuda:<n>
        quick: fewer repeats: minutes, and figures that say little
        json: also write them there
        only: these rows alone
    """
    torch_device = choose_device(device)
    unknown = [name for name in only if name not in ROWS]
    if unknown:
        raise InputError(f"--only {unknown[0]} is unknown; expected some of {', '.join(ROWS)}")
    rates = machine_rates(torch_device)
    config = Config()
    gflop = forward_gflop(config)
    found = {"machine": machine(torch_device), "gflop_per_second": rates, "forward_gflop_per_image": gflop,
             "difference_from_reference": difference_from_reference(config), "rows": {}}
    print("\n".join([*(f"{name}: {value}" for name, value in found["machine"].items()),
                     *(f"{name}: {value:.0f} GFLOP/s" for name, value in rates.items()),
                     "outputs of both networks with the same weights differ by "
                     f"{found['difference_from_reference']:.1g} of their norm", ""]))
    print("| what | ours | reference | ratio | at least | aim |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        simulate.main(Path(folder) / "data", num_users=NUM_USERS, images_per_user=IMAGES_PER_USER)
        torch.manual_seed(0)
        save_tensors(Path(folder) / "vae.pt", KL_VAE().checkpoint())     # loaded as every script loads it
        bench = Bench(dataclasses.replace(config, num_users=NUM_USERS), torch_device, 1 if quick else 5, quick,
                      Path(folder) / "data", Path(folder), KL_VAE.load(Path(folder) / "vae.pt", torch_device))
        for name in only or ROWS:
            function, unit, *targets = ROWS[name]
            ours, theirs = function(bench)
            least, aim = (target[torch_device.type == "cuda"] for target in targets)
            found["rows"][name] = {"unit": unit, "ours_seconds": ours, "reference_seconds": theirs,
                                   "ratio": theirs / ours, "at_least": least, "aim": aim}
            print(f"| {name} | {_seconds(ours)} per {unit} | {_seconds(theirs)} | {theirs / ours:.2f} | {least:g} | "
                  f"{aim:g} |", flush=True)
    if "training step" in found["rows"]:
        found["limit"] = limit = 3 * config.train_batch_size * config.gradient_accumulate_every * gflop / max(
            rates.values())
        step = found["rows"]["training step"]["ours_seconds"]
        print(f"\nThe reference's arithmetic of a training step ({gflop:.2f} GFLOP forward per image, three times "
              f"that with the gradients) takes {limit:.4g} s at the higher of the rates above; ours takes "
              f"{step / limit:.1f} times that.")
    print(f"Drawing: ours {config.sampler} with {config.sampling_timesteps} network evaluations in "
          f"{found['machine']['precision']}, the reference DDIM with {DDIM_STEPS} in float32. Classifier: the "
          "reference decodes its images in every epoch, ours once for all runs, which is not counted here.")
    if json:
        write_json(json, found)
        print(f"written: {json}")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


if __name__ == "__main__":
    run(main)
