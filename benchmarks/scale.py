"""Time and memory of training with more latents and more users:  python -m benchmarks.scale

The latents are random. They are on disk as training expects them, but the operating system may still have them in its
file cache. Each size is measured in a process of its own.
"""
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.measure import FULL_SIZE, machine, time_once
from denoising_diffusion_pytorch.trainer import batch_indices
from groundwork.command_line import run
from groundwork.device import choose_device, describe_work
from groundwork.files import digest_file, read_json, write_json
from groundwork.seeding import seeded
from microdoppler.data.latents import INDEX_FILE, LATENTS_FILE, LatentCache, LatentStatistics, load_cached
from microdoppler.pipeline.assembly import build_diffusion, build_trainer
from train_latent_cfg import Config
from vae.kl_vae import SCALE_FACTOR

SIZES, USERS = (1_550, 15_500, 155_000, 1_000_000), (31, 1_000, 10_000)
CHUNK = 10_000                      # random latents that are written again and again
MAX_BYTES_IN_MEMORY = 4 * 2 ** 30   # larger sets are not read into memory for comparison


def make_cache(folder: Path, config: Config, num_latents: int) -> None:
    """Write latents.npy and latents.json as `load_or_encode` does, with random numbers that repeat after CHUNK latents.
    """
    shape = (2, config.latent_channels, config.latent_size, config.latent_size)
    block = np.random.default_rng(0).standard_normal((min(num_latents, CHUNK), *shape), dtype=np.float32)
    block[:, 1] -= 6
    stored = np.lib.format.open_memmap(folder / LATENTS_FILE, "w+", np.float16, (num_latents, *shape))
    for start in range(0, num_latents, CHUNK):
        stored[start:start + CHUNK] = block[:num_latents - start]
    stored.flush()
    labels = (np.arange(num_latents) % config.num_users).tolist()
    statistics = LatentCache(block.astype(np.float16), torch.zeros(len(block)), SCALE_FACTOR).statistics
    write_json(folder / INDEX_FILE, {"scale_factor": SCALE_FACTOR, "labels": labels, "statistics": asdict(statistics),
                                     "sha256": digest_file(folder / LATENTS_FILE),
                                     "images": [f"ID_{label + 1}/Doppler{i}.jpg" for i, label in enumerate(labels)]})


def measure(folder: Path, config: Config, num_steps: int) -> dict[str, float]:
    """Measure training on the cache in `folder`; num_steps: training steps that are timed.

    Returns open_seconds (opening the cache), step_seconds (a training step), draw_from_file_seconds and, unless the set
    is too large, draw_from_memory_seconds (fetching a batch; memory of the device if it has enough room), and
    own_megabytes (memory of this process without the pages of the memory-mapped file).
    """
    device = choose_device(config.device)
    statistics = LatentStatistics(**read_json(folder / INDEX_FILE)["statistics"])
    started = time.perf_counter()
    cache = load_cached(folder, statistics)
    found = {"open_seconds": time.perf_counter() - started}
    trainer = build_trainer(config, build_diffusion(config), cache, statistics.scaling(config.standardize_latents),
                            device)

    def draw_seconds(where: torch.device = torch.device("cpu")) -> float:
        batches = [batch_indices(step, 16, len(cache), seed=0).to(where) for step in range(200)]
        return median(time_once(lambda: trainer.get_batch(batch, seeded(0, device=trainer.device)), device)
                      for batch in batches)
    trainer.train_step()
    found["step_seconds"] = median(time_once(trainer.train_step, device) for _ in range(num_steps))
    found["draw_from_file_seconds"] = draw_seconds()
    found["own_megabytes"] = _own_megabytes()
    if cache.resident is not None:
        found["draw_from_memory_seconds"] = draw_seconds(trainer.device)
    elif cache.posteriors.nbytes <= MAX_BYTES_IN_MEMORY:
        cache.posteriors = np.array(cache.posteriors)
        found["draw_from_memory_seconds"] = draw_seconds()
    return found


def _own_megabytes() -> float:
    """Anonymous memory of this process (Linux), which excludes pages of mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def main(*, device: str = "auto", sizes: tuple[int, ...] = SIZES, users: tuple[int, ...] = USERS, num_steps: int = 10,
         folder: Path | None = None, json: Path | None = None) -> None:
    """Measure start-up, memory and speed of training on random latents with the default Config.

    Args:
        device: auto, cpu, cuda or cuda:<n>
        sizes: numbers of latents, of 16 kB each
        users: numbers of users, each measured with the second smallest set
        num_steps: training steps that are timed
        folder: folder for the latents; default: the system's temporary folder
        json: also write the results to this file
    """
    config, torch_device = replace(FULL_SIZE, device=device), choose_device(device)
    print(describe_work(torch_device, amp=config.amp,
                        micro_batch=config.train_batch_size * config.gradient_accumulate_every))
    cases = [(size, config.num_users) for size in sizes] + [(sorted(sizes)[:2][-1], number) for number in users]
    rows = []
    print("| latents | users | opening | own memory | step | drawing its batch from the file | from memory |\n"
          "|---|---|---|---|---|---|---|")
    for num_latents, num_users in dict.fromkeys(cases):
        case = replace(config, num_users=num_users)
        with (tempfile.TemporaryDirectory(dir=folder) as made, ProcessPoolExecutor(1, get_context("spawn")) as process):
            make_cache(Path(made), case, num_latents)
            found = process.submit(measure, Path(made), case, num_steps).result()
        rows.append({"latents": num_latents, "users": num_users, **found})
        memory = found.get("draw_from_memory_seconds")
        print(f"| {num_latents} | {num_users} | {found['open_seconds']:.2f} s | {found['own_megabytes']:.0f} MB | "
              f"{found['step_seconds']:.3f} s | {1000 * found['draw_from_file_seconds']:.2f} ms | "
              f"{f'{1000 * memory:.2f} ms' if memory else 'too large'} |", flush=True)
    if json:
        write_json(json, {"machine": machine(torch_device), "rows": rows})
        print(f"written: {json}")


if __name__ == "__main__":
    run(main)
