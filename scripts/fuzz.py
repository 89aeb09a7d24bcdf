"""Feed damaged files to everything that reads files:  python -m scripts.fuzz --minutes 10

A reader must accept a file or refuse it with InputError. Any other exception is a finding: the file is kept in the
folder --findings, and can become a case in tests/fuzzed/. If atheris is installed (pip install atheris, where there is
a wheel), the branches that the code takes guide the damage; otherwise the damage is random.
"""
import contextlib
import io
import json
import queue
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from types import FunctionType
from typing import Callable

import numpy as np
import torch
from PIL import Image

from denoising_diffusion_pytorch.checkpoint import ema_unet_weights, infer_config, load_checkpoint, save_ema
from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.files import read_json
from groundwork.images import load_images
from groundwork.limits import to_plain
from groundwork.progress import Progress
from microdoppler.data.latents import LatentStatistics, load_cached
from microdoppler.data.recordings import by_names
from microdoppler.data.split import Split, split_images
from microdoppler.data.split_settings import SplitSettings
from microdoppler.data.synthetic_sets import read_manifest
from microdoppler.pipeline.constants import config_of
from microdoppler.study.runs import RunLog
from microdoppler.watch.metrics import read_metrics
from train_latent_cfg import Config
from vae.kl_vae import KL_VAE
from vae.train import read_split

STATISTICS = LatentStatistics([0.0], [1.0], -1.0, 1.0)


def read_checkpoint(path: Path) -> None:
    """Read a checkpoint as generate.py does."""
    checkpoint = load_checkpoint(path)
    config_of(checkpoint)
    ema_unet_weights(checkpoint)
    if not checkpoint.get("config"):
        infer_config(checkpoint)


def read_runs(path: Path) -> None:
    """Read runs.csv as classify.py does."""
    RunLog(path.parent)


def read_predictions(path: Path) -> None:
    """Read the predictions of a stored run as classify.py does."""
    (path.parent / "predictions").mkdir(exist_ok=True)
    shutil.copy(path, path.parent / "predictions" / "key.npz")
    RunLog(path.parent).read("key")


def write_torch(value: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(value, path)
    return write


def write_json_of(value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value))


def _split() -> Split:
    names = {user: [f"ID_{user}/Doppler{i}.png" for i in range(30)] for user in (1, 2)}
    recordings = {user: by_names(own) for user, own in names.items()}
    return split_images(recordings, SplitSettings(2, 10, "contiguous", 1, 1, 0), {1: "ID_1", 2: "ID_2"})


def _checkpoint() -> dict:
    weights = {"init_conv.weight": torch.zeros(1)}
    return {"format": 2, "step": 1, "config": to_plain(Config()), "opt": {},
            "model": {f"model.{name}": value for name, value in weights.items()},
            "ema": {f"ema_model.model.{name}": value for name, value in weights.items()}}


def write_ema(path: Path) -> None:
    save_ema(path, _checkpoint(), to_plain(Config()))


def _vae() -> KL_VAE:
    torch.manual_seed(0)
    return KL_VAE({"ch": 4, "ch_mult": (1,), "num_res_blocks": 1})


def _image(format_: str) -> Callable[[Path], None]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return lambda path: Image.fromarray(noise).save(path, format_)


INDEX = {"labels": [0], "scale_factor": 0.2, "statistics": vars(STATISTICS), "images": ["a"]}


def write_latents(path: Path) -> None:
    np.save(path, np.zeros((1, 2, 1, 2, 2), np.float16))


def read_latents(path: Path) -> None:
    """Read damaged latents.npy with an undamaged index."""
    write_json_of(INDEX)(path.with_suffix(".json"))
    load_cached(path.parent, STATISTICS)


def read_index(path: Path) -> None:
    """Read a damaged latents.json with undamaged latents."""
    write_latents(path.with_suffix(".npy"))
    load_cached(path.parent, STATISTICS)


def read_image(path: Path) -> None:
    load_images(path.parent, [path.name], 16)


METRICS = '{"step": 1, "loss": 0.5, "grad_norm": 1, "lr": 0.1, "images_per_second": 3, "wall_time": 2}\n'
MANIFEST = {"images": {"ID_1/a.png": {"user": 1, "seed": 2}}, "vae": "x"}


@dataclass(frozen=True)
class Kind:
    """A kind of file."""
    file_name: str
    write: Callable[[Path], object]     # writes an undamaged file to the path
    read: Callable[[Path], object]      # the code under test


KINDS = {
    "checkpoint": Kind("model-1.pt", write_torch(_checkpoint()), read_checkpoint),
    "VAE": Kind("kl_vae_best.pt", write_torch(_vae().checkpoint()), KL_VAE.load),
    "shared weights": Kind("model.safetensors", write_ema, read_checkpoint),
    "shared VAE": Kind("vae.safetensors", _vae().save_safetensors, KL_VAE.load),
    "split": Kind("data_split.json", write_json_of(_split().to_json()),
                  lambda path: Split.from_json(read_json(path), path)),
    "split for the VAE": Kind("split.json", write_json_of(_split().to_json()), read_split),
    "manifest": Kind("manifest.json", write_json_of(MANIFEST), lambda path: read_manifest(path.parent)),
    "index of latents": Kind("latents.json", write_json_of(INDEX), read_index),
    "latents": Kind("latents.npy", write_latents, read_latents),
    "metrics": Kind("metrics.jsonl", lambda path: path.write_text(METRICS), read_metrics),
    "runs": Kind("runs.csv", lambda path: path.write_text("key,arm,synthetic,fold\nk,real only,,0\n"), read_runs),
    "predictions": Kind("key.npz", lambda path: np.savez(path, probabilities=np.ones((2, 2)), seconds=1.0),
                        read_predictions),
    "PNG": Kind("a.png", _image("PNG"), read_image),
    "JPG": Kind("a.jpg", _image("JPEG"), read_image),
}


INSTRUMENTED = (        # modules whose branches guide atheris; to instrument all modules would take minutes
    "torch._weights_only_unpickler", "numpy.lib.format", "numpy.lib._format_impl", "json.decoder", "csv", "zipfile",
    "PIL.Image", "PIL.ImageOps", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.ImageFile", "PIL.ExifTags",
    "groundwork.files", "groundwork.images", "groundwork.limits", "denoising_diffusion_pytorch.checkpoint",
    "microdoppler.data.split", "microdoppler.data.latents", "microdoppler.data.synthetic_sets",
    "microdoppler.study.runs", "microdoppler.watch.metrics", "microdoppler.pipeline.constants", "vae.kl_vae",
    "vae.train")


def functions_of(modules: tuple[str, ...]) -> list[FunctionType]:
    """The functions and methods that these modules define; modules that are not imported are left out."""
    found = []
    for name in modules:
        for value in list(vars(sys.modules[name]).values()) if name in sys.modules else []:
            members = vars(value).values() if isinstance(value, type) else [value]
            found += [member for member in members if isinstance(member, FunctionType) and member.__module__ == name]
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four places damaged: bytes flipped, removed, doubled, replaced or cut off."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(damaged) + 1)
        stop = min(len(damaged), start + rng.choice((1, 2, 8, 64)))
        part = damaged[start:stop]
        damaged[start:stop] = rng.choice((
            bytes(byte ^ 1 << rng.randrange(8) for byte in part), b"", part * 2, rng.randbytes(len(part)),
            rng.choice((b"\xff" * len(part), b"-1", b"null", b"[]", b"{}", b"1e999", b'"', b"../"))))
        if rng.random() < 0.1:
            del damaged[start:]
    return bytes(damaged)


def attempt(name: str, data: bytes, folder: Path) -> Exception | None:
    """Read a file of kind `name` with this content in `folder`. Returns what was raised, except InputError."""
    path = folder / KINDS[name].file_name
    path.write_bytes(data)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            KINDS[name].read(path)
    except InputError:
        pass
    except Exception as error:
        return error
    return None


def fuzz(name: str, seconds: float, seed: int, findings: Path, result: Queue) -> None:
    """Damage files of kind `name` for so many seconds, and put (number of files, number of findings) into `result`.

    Must run in a process of its own, because atheris ends the process.
    """
    tried, found = 0, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / KINDS[name].file_name
        KINDS[name].write(path)
        whole = path.read_bytes()

        def test(data: bytes) -> None:
            nonlocal tried
            tried += 1
            error = attempt(name, data, folder)
            if error is not None and (what := f"{type(error).__name__}: {error}"[:60]) not in found:
                found[what] = data          # one finding per kind of exception and start of its text
                findings.mkdir(parents=True, exist_ok=True)
                (findings / f"{name} {len(found)}").write_bytes(data)
                print(f"{name}: {what}", file=sys.stderr)
            if time.monotonic() > end:
                result.put((tried, len(found)))
                result.close()
                result.join_thread()
                raise KeyboardInterrupt         # ends atheris.Fuzz
        end = time.monotonic() + seconds
        try:
            import atheris
        except ImportError:
            rng = random.Random(seed)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    test(mutate(whole, rng))
            return
        (folder / "corpus").mkdir()
        (folder / "corpus" / "whole").write_bytes(whole)
        for function in functions_of(INSTRUMENTED):
            atheris.instrument_func(function)
        atheris.Setup([sys.argv[0], str(folder / "corpus"), f"-seed={seed + 1}", f"-max_len={4 * len(whole)}",
                       "-verbosity=0"], test)
        with contextlib.suppress(KeyboardInterrupt):
            atheris.Fuzz()


def main(*, minutes: float = 10, seed: int = 0, findings: Path = Path("fuzz_findings")) -> int:
    """Damage files of all kinds and read them. Exit status 1 when a reader raises anything but InputError.

    Args:
        minutes: total time, divided equally among the kinds of files
        seed: random seed of the damage
        findings: folder for the files that made a reader raise something else
    """
    total = 0
    print("| file | damaged ones read | findings |\n|---|---|---|")
    for name in Progress(KINDS, desc="damaging files", unit="kind"):
        context = get_context("spawn")
        result = context.Queue()
        process = context.Process(target=fuzz, args=(name, 60 * minutes / len(KINDS), seed, findings, result))
        process.start()
        tried, found = None, 1          # a process that dies without a result counts as a finding
        while tried is None and (process.is_alive() or not result.empty()):
            with contextlib.suppress(queue.Empty):
                tried, found = result.get(timeout=1)
        process.join()
        total += found
        print(f"| {name} | {tried} | {found} |", flush=True)
    return total


if __name__ == "__main__":
    if run(main):
        sys.exit(1)
