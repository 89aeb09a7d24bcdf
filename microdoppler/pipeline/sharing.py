"""export.py: write a trained model to share, averaged weights and VAE as safetensors, with a model card."""
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import torch

from denoising_diffusion_pytorch.checkpoint import load_checkpoint, save_ema
from groundwork.command_line import command
from groundwork.errors import InputError, shortened
from groundwork.limits import checks_arguments, to_plain
from groundwork.lock import sole_writer
from microdoppler.data.class_names import default_names
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.generation import MODEL_FILE, VAE_FILE, ImageGenerator, Sampling, find_checkpoint
from microdoppler.pipeline.model_card import (best_checkpoint, config_section, data_section, fidelity_section,
                                              study_section, training_section, write_card)
from train_latent_cfg import Config
from vae.diffusers_folder import save_diffusers

CARD_FILE = "README.md"


def shared_config(checkpoint: dict) -> dict:
    """{name: plain value} of a checkpoint's Config, without paths: these are private to one machine."""
    hints = get_type_hints(Config)
    return {name: value for name, value in to_plain(config_of(checkpoint)).items()
            if Path not in (hints[name], *get_args(hints[name]))}


@checks_arguments
def export(*, checkpoint: Path = Config.results_folder, output_dir: Path | None = None,
         vae_path: Path | None = None, fidelity: Path | None = None, study: Path | None = None,
         format: Literal["safetensors", "diffusers"] = "safetensors") -> None:
    """Write a model to a folder that can be shared: averaged weights and VAE as safetensors, and a model card.

    generate.py and ImageGenerator.load can read the folder. To generate the same images they need nothing else, unless
    noise_level is below 1.

    Args:
        checkpoint: model-<m>.pt, or a results folder: then the model whose images the classifier study found best, or
            the newest model if there is no such study
        output_dir: gets model.safetensors, vae.safetensors and README.md, the model card; default: export beside the
            checkpoint
        vae_path: weights of the VAE; default: the checkpoint's vae_path
        fidelity: folder that python -m microdoppler.fidelity wrote; default: fidelity beside the checkpoint
        study: folder that classify.py wrote; default: classify beside the checkpoint
        format: safetensors, or diffusers: only the VAE is written, to output_dir/vae, for AutoencoderKL.from_pretrained
    """
    results = checkpoint if checkpoint.is_dir() else checkpoint.parent
    output_dir = output_dir or results / "export"
    if format == "safetensors" and (output_dir / CARD_FILE).exists():
        raise InputError(f"{output_dir / CARD_FILE} exists, and may have been edited; choose another --output_dir, or "
                         "delete it")
    study = (study or results / "classify") / "summary.json"
    path, reason = choose_checkpoint(checkpoint, study)
    generator = ImageGenerator.load(path, "cpu", Sampling(noise_level=1.0), vae_path)      # checks that all files match
    if format == "diffusers":
        return export_vae(generator, output_dir)
    content, identity, classes = load_checkpoint(path), generator.identity, generator.legend.classes
    config, model = shared_config(content), {f"model_{name}": identity[name] for name in ("weights", "vae")}
    names = default_names(classes, config["class_folders"])     # the names of persons are not shared
    content["legend"] = replace(generator.legend, names=names).to_plain()
    if content.get("started_from"):
        del content["started_from"]["path"]
    sections = [data_section(config, list(classes.values()), identity["split"], content.get("latent_statistics", {})),
                fidelity_section((fidelity or results / "fidelity") / "fidelity.json", model),
                study_section(study, model), training_section(results / "metrics.jsonl", content["step"]),
                config_section(config)]
    with sole_writer(output_dir):
        save_ema(output_dir / MODEL_FILE, content, config)
        generator.vae.save_safetensors(output_dir / VAE_FILE)
        write_card(output_dir / CARD_FILE, facts=weight_facts(generator, content, reason), sections=sections,
                   num_users=config["num_users"], is_gait=not config["class_folders"],
                   sample_shape=(16, generator.vae.channels, config["image_size"], config["image_size"]))
    print(f"{path}: {reason}\nwritten: {output_dir}/{MODEL_FILE}, {VAE_FILE}, {CARD_FILE}")
    for section in sections:
        if not section.tables:
            print(f"{section.heading}: {section.paragraphs[0]}")
    if config["class_folders"]:
        print(f"whoever gets it learns the names of your folders: {shortened(list(classes.values()))}")
    print("next: " + command("generate.py", "--checkpoint", output_dir, "--all_users"))


def export_vae(generator: ImageGenerator, output_dir: Path) -> None:
    """Write the VAE to output_dir/vae, a folder of diffusers. Raises InputError if it has no equal there."""
    path = generator.config.vae_path
    try:
        with sole_writer(output_dir):
            save_diffusers(generator.vae, output_dir / "vae")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    print(f"written: {output_dir / 'vae'}, the VAE of {path} as diffusers' AutoencoderKL. The diffusion model is not "
          "written: diffusers has no such network")


def choose_checkpoint(checkpoint: Path, study: Path) -> tuple[Path, str]:
    """The checkpoint to share, and why it was chosen; study: path of the summary.json of classify.py."""
    if not checkpoint.is_dir():
        return checkpoint, "named by who shares it"
    return best_checkpoint(study, checkpoint) or (
        find_checkpoint(checkpoint), "the newest of its training; no study has compared it with others")


def weight_facts(generator: ImageGenerator, content: dict, reason: str) -> list[tuple[str, str]]:
    """(name, value) for the card: what identifies these weights; content: of the checkpoint; reason: why chosen."""
    def millions(network: torch.nn.Module) -> str:
        return f"{sum(weight.numel() for weight in network.parameters()) / 1e6:.1f} million"
    start = content.get("started_from")
    origin = [("started from", f"weights of another training, step {start['step']}, SHA-256 {start['weights']}")
              ] if start else []
    return [("step", f"{content['step']} of {generator.config.train_num_steps}"), ("chosen", reason),
            ("weights", f"{millions(generator.diffusion.model)}, SHA-256 {generator.identity['weights']}"),
            ("VAE", f"{millions(generator.vae)}, SHA-256 {generator.identity['vae']}"),
            *origin,
            ("trained by", f"microdoppler-diffusion {content.get('package_version', 'of before 0.1')}")]
