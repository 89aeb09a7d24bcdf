"""All steps at small size on simulated data.

simulate → split → train the VAE → check the VAE → train the diffusion model → generate → fidelity → classify → report
"""
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterator

from matplotlib.figure import Figure

from denoising_diffusion_pytorch.checkpoint import list_milestones, milestone_path
from groundwork.device import choose_device
from groundwork.files import read_json
from groundwork.images import load_images
from groundwork.limits import checks_arguments
from groundwork.memory import peak_memory
from microdoppler.data.audit import Audit, audit_split, write_audit
from microdoppler.data.spectrograms import find_images
from microdoppler.data.split import Split
from microdoppler.fidelity.measure import main as measure_fidelity
from microdoppler.fidelity.report import PAIRS_CAPTION, sentences, tables
from microdoppler.figures.pictures import image_grid
from microdoppler.figures.report import Picture, Section, Table, render_report, save_figure
from microdoppler.pipeline.assembly import legend_of, open_data
from microdoppler.pipeline.classification import check_options, classify
from microdoppler.pipeline.constants import check_new_config
from microdoppler.pipeline.monitoring import monitor
from microdoppler.pipeline.synthetic_folder import generate
from microdoppler.pipeline.training import train
from microdoppler.pipeline.vae_range import check_vae
from microdoppler.simulate.dataset import main as simulate
from microdoppler.study.report import study_verdict
from microdoppler.study.tables import result_tables
from train_latent_cfg import Config
from vae.train import main as train_vae

# What is simulated where the Config leaves it open: persons, pixels of an image and of a latent, by preset
SIMULATED = {"full": (31, 256, 32), "cpu-hours": (31, 128, 16), "cpu-minutes": (8, 64, 16)}
NUM_SHOWN = 4       # real images, and synthetic images, of each person in real_and_synthetic.png


@dataclass
class Stopwatch:
    """Measures the seconds of each stage; `with stopwatch("generate"): …` prints the stage's name and times it."""
    seconds: dict[str, float] = field(default_factory=dict)     # {stage: seconds}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        print(f"\n=== {stage}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

    def table(self) -> Table:
        """The seconds of each stage and of all together."""
        rows = [[stage, f"{seconds:.1f}"] for stage, seconds in self.seconds.items()]
        return Table(["stage", "seconds"], [*rows, ["all", f"{sum(self.seconds.values()):.1f}"]])


@checks_arguments
def demonstrate(config: Config, *, output_dir: Path = Path("demo"), images_per_user: int = 150,
                samples_per_user: int = 50, vae_num_steps: int = 800, vae_ch: int = 16) -> None:
    """Run all steps on simulated radar data, up to output_dir/report.html.

    When it is stopped and started again, it continues where it was.

    Args:
        output_dir: gets all files: data, weights, results, synthetic images, report.html
        images_per_user: simulated windows of each person
        samples_per_user: synthetic images of each person
        vae_num_steps: optimisation steps of the VAE
        vae_ch: channels of the VAE at full image size
    """
    check_new_config(config)         # before any work is done, as the device
    check_options(config)
    choose_device(config.device)
    config = replace(with_sizes(config), data_path=output_dir / "data", vae_path=output_dir / "kl_vae_best.pt",
                     results_folder=output_dir / "results", latents_cache_folder=output_dir / "latents_cache")
    synthetic = output_dir / "synthetic"
    stopwatch = Stopwatch()
    with stopwatch("simulate"):
        simulate(config.data_path, config.num_users, images_per_user, config.image_size)
    with stopwatch("split"):
        config, data = open_data(config)
        audit = audit_split(data.split, data.overlaps)
        write_audit(audit, config.data_path, config.latents_cache_folder)
    with stopwatch("train the VAE"):
        train_narrow_vae(config, vae_num_steps, vae_ch)
    with stopwatch("test the VAE's range"):
        check_vae(config)
    with stopwatch("train the diffusion model"):
        resume = "latest" if list_milestones(config.results_folder) else None
        if not train(config, resume):
            print("the demo goes on where it was when it is started again")
            return
        monitor(config)
    with stopwatch("generate"):
        newest = milestone_path(config.results_folder, list_milestones(config.results_folder)[-1])
        generate(checkpoint=newest, all_users=True, samples_per_user=samples_per_user, output_dir=synthetic,
                 device=config.device, save_grid=True)
    with stopwatch("fidelity"):
        fidelity = measure_fidelity(config.data_path, synthetic, split=config.latents_cache_folder / "data_split.json",
                                    output=config.results_folder / "fidelity",
                                    classifier=config.classifier,
                                    classifier_image_size=config.classifier_image_size, device=config.device)
    with stopwatch("classify"):
        summary = classify(config, synthetic=(synthetic,))
    save_figure(compare(config, data.split, synthetic), output_dir / "real_and_synthetic.png")
    write_report(config, audit, fidelity, summary, stopwatch, output_dir)
    print(f"\nreport: {(output_dir / 'report.html').resolve()}")


def with_sizes(config: Config) -> Config:
    """The Config with the number of persons and the sizes of images and latents where they are left open."""
    num_users, image_size, latent_size = SIMULATED[config.preset]
    return replace(config, num_users=config.num_users or num_users, image_size=config.image_size or image_size,
                   latent_size=config.latent_size or latent_size, latent_channels=config.latent_channels or 4)


def train_narrow_vae(config: Config, num_steps: int, ch: int) -> None:
    """Train a small VAE to config.vae_path, in minutes on a CPU; continues training that was interrupted."""
    levels = (config.image_size // config.latent_size).bit_length()     # each but the last halves height and width
    train_vae(config.data_path, output=config.vae_path, split=config.latents_cache_folder / "data_split.json",
              image_size=config.image_size, ch=ch, ch_mult=(1, 2, 4, 4)[:levels], num_res_blocks=1,
              num_steps=num_steps, batch_size=8, lr=4e-3, kl_weight=0.002, device=config.device, resume=True)


def compare(config: Config, split: Split, synthetic: Path) -> Figure:
    """A row per user: real images, then synthetic ones. The real ones are test images, which the model cannot have
    copied."""
    legend, rows = legend_of(config, split), []
    generated = find_images(synthetic, legend.classes)
    for user in split.users:
        test = split.test_images[user]
        chosen = [test[len(test) * i // NUM_SHOWN] for i in range(NUM_SHOWN)]
        rows.append((legend.figure_names[user],
                     [*load_images(config.data_path, chosen, config.image_size, preparation=split.preparation),
                      *load_images(synthetic, generated[user][:NUM_SHOWN], config.image_size)]))
    return image_grid(rows, (["real"] + [""] * (NUM_SHOWN - 1)) + ["synthetic"], axes=legend.axes)


def write_report(config: Config, audit: Audit, fidelity: dict, summary: dict, stopwatch: Stopwatch,
                 output_dir: Path) -> None:
    """Write output_dir/report.html from the results of all steps; fidelity: as measure_fidelity returns it; summary: of
    classify."""
    vae_quality = read_json(config.results_folder / "vae_range.json")
    newest = list_milestones(config.results_folder)[-1]
    study = config.results_folder / "classify"
    render_report(output_dir / "report.html", "Demo on simulated radar data: do the synthetic images help?",
                  study_verdict(summary, study), [
        Section("Real (here: simulated) beside synthetic", ["The real ones are test images, which no model has seen."],
                pictures=[Picture(output_dir / "real_and_synthetic.png", "A row per person")]),
        Section("All arms of the study", tables=result_tables(summary),
                pictures=[Picture(study / "accuracy.png", "Accuracy on the test images"),
                          Picture(study / "persons.png", "A line per user, without and with synthetic images"),
                          Picture(study / "confusion.png", "Who is mistaken for whom")]),
        Section("How similar, how varied, how new", sentences(fidelity), tables(fidelity), [
            Picture(config.results_folder / "fidelity" / name, caption) for name, caption in (
                ("closest_pairs.png", PAIRS_CAPTION), ("gait.png", "Estimates from each picture; bars are medians"))
            if name != "gait.png" or "cadence_hz" in fidelity["all"]["real"]]),
        Section("The split, audited", [audit.line], pictures=[
            Picture(config.latents_cache_folder / "split_audit.png", "The closest pairs of test and training images")]),
        Section("Diffusion training", pictures=[
            Picture(config.results_folder / "training.png", "Loss, gradient norm, speed, milestones"),
            Picture(config.results_folder / f"sample-{newest}.png", "The last milestone")]),
        Section("The VAE", [f"Reconstruction of training images: PSNR {vae_quality['psnr_db']:.1f} dB, "
                            f"{vae_quality['verdict']}; latents with std {vae_quality['std']:.3f}."],
                pictures=[Picture(config.results_folder / "vae_reconstruction.png", "Original above reconstruction")]),
        Section("Time", [f"Peak memory {peak_memory() / 2 ** 30:.1f} GB."], [stopwatch.table()]),
    ])
