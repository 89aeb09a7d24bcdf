"""Compare the speed with the reference library and with the machine's limit:  python -m benchmarks --device cuda"""
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import FULL_SIZE, machine, machine_rates
from benchmarks.reference import DDIM_STEPS, VERSIONS
from benchmarks.rows import ROWS, Bench, difference_from_reference
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.files import save_tensors, write_json
from microdoppler.simulate.dataset import simulate_dataset
from vae.kl_vae import KL_VAE

NUM_USERS, IMAGES_PER_USER = 4, 80      # of the simulated data set, for the rows that read image files


def main(*, device: str = "auto", quick: bool = False, json: Path | None = None, only: tuple[str, ...] = ()) -> None:
    """Time the default Config and denoising-diffusion-pytorch alternately; print medians and their ratios.

    Two versions of the reference are timed; the ratio is that to the faster one.

    Args:
        device: auto, cpu, cuda or cuda:<n>
        quick: fewer repetitions: takes minutes, but the results are unreliable
        json: also write the results to this file
        only: names of rows to measure; default: all
    """
    torch_device = choose_device(device)
    unknown = [name for name in only if name not in ROWS]
    if unknown:
        raise InputError(f"--only {unknown[0]} is unknown; expected some of {', '.join(ROWS)}")
    rates = machine_rates(torch_device)
    config = FULL_SIZE
    described = machine(torch_device)
    differences = {version: difference_from_reference(config, version) for version in VERSIONS}
    rows: dict[str, dict[str, Any]] = {}
    print("\n".join([*(f"{name}: {value}" for name, value in described.items()),
                     *(f"{name}: {value:.0f} GFLOP/s" for name, value in rates.items()),
                     *(f"outputs of our network and of {version}'s with the same weights differ by {difference:.1g} of "
                       "their norm" for version, difference in differences.items()), ""]))
    print("| what | ours | limit | reference | ratio | at least | aim |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        simulate_dataset(Path(folder) / "data", NUM_USERS, IMAGES_PER_USER)
        torch.manual_seed(0)
        save_tensors(Path(folder) / "vae.pt", KL_VAE().checkpoint())     # so that it is loaded as in all scripts
        bench = Bench(dataclasses.replace(config, num_users=NUM_USERS), torch_device, 1 if quick else 5, quick,
                      Path(folder) / "data", Path(folder), KL_VAE.load(Path(folder) / "vae.pt", torch_device))
        for name in only or ROWS:
            row = ROWS[name]
            ours, references = row.measure(bench)
            reference = min(references.values())
            gflop = row.gflop(bench)
            limit = gflop / max(rates.values())
            least, aim = (target[torch_device.type == "cuda"] for target in (row.at_least, row.aim))
            rows[name] = {"unit": row.unit, "ours_seconds": ours, "gflop": gflop, "limit_seconds": limit,
                          "reference_seconds": reference, "seconds_of_references": references,
                          "ratio": reference / ours, "at_least": least, "aim": aim}
            print(f"| {name} | {_seconds(ours)} per {row.unit} | {_seconds(limit)} | "
                  f"{', '.join(f'{_seconds(value)} ({version})' for version, value in references.items())} | "
                  f"{reference / ours:.2f} | {least:g} | {aim:g} |", flush=True)
    print("\nLimit: ours' matrix products and convolutions at the higher of the rates above.")
    print(f"Drawing: ours {config.sampler} with {config.sampling_timesteps} network evaluations in "
          f"{described['precision']}, the reference DDIM with {DDIM_STEPS} in float32. Classifier: the "
          "reference decodes its images in every epoch, ours once for all runs, which is not counted here.")
    if json:
        write_json(json, {"machine": described, "gflop_per_second": rates, "difference_from_reference": differences,
                          "rows": rows})
        print(f"written: {json}")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


if __name__ == "__main__":
    run(main)
