"""The model card of shared weights (Mitchell et al. 2019): what they are, training data, quality, how to use them.

The card is Markdown with the YAML header that the Hugging Face Hub reads. It contains only measurements of exactly
these weights, which are identified by their hash. Where there is no measurement, the card says so.
"""
import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence

import jinja2

from groundwork.errors import InputError, shortened
from groundwork.files import read_json, write_text
from microdoppler.fidelity.report import sentences, tables
from microdoppler.figures.report import Section, Table
from microdoppler.study.kinds import PRIMARY_KIND
from microdoppler.study.report import study_verdict
from microdoppler.study.tables import accuracies_table, contrasts_table, num_trainings
from microdoppler.watch.metrics import read_metrics
from microdoppler.watch.sample_findings import how_many


@contextmanager
def input_error_if_malformed(path: Path) -> Iterator[None]:
    """Turns errors in the code below `with` into InputError: the content of `path` is not as this project writes it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be understood ({type(error).__name__}: {error}); move it away, and make it "
                         "anew") from None


def read_measured(path: Path, key: str) -> dict[str, Any]:
    """A JSON file of results; {} where there is no file, or where it lacks `key`, the key that names the models.
    Earlier versions did not write that key."""
    found = read_json(path) if path.exists() else {}
    return found if isinstance(found, dict) and key in found else {}


def is_by_model(facts: dict[str, Any], model: dict[str, str]) -> bool:
    """Whether a synthetic set with these facts comes from this model; model: {"model_weights", "model_vae": hashes};
    facts: as in data.synthetic_sets.facts_of."""
    return all(facts.get(name) == value for name, value in model.items())


def best_checkpoint(study: Path, folder: Path) -> tuple[Path, str] | None:
    """The best checkpoint in `folder`, and why it was chosen: its images gave the most accurate classifiers in the arm
    PRIMARY_KIND. None when the study has no images of these checkpoints; study: path of the summary of classify.py.
    """
    found = read_measured(study, "sets")
    with input_error_if_malformed(study):
        checkpoint_of = {facts["name"]: path for facts in found.get("sets", [])
                         if (path := Path(facts["model_checkpoint"])).resolve().parent == folder.resolve()
                         and path.is_file()}
        arms = [arm for arm in found.get("arms", [])
                if arm["kind"] == PRIMARY_KIND and arm["synthetic"] in checkpoint_of]
        if not arms:
            return None
        best = max(arms, key=lambda arm: arm["accuracy"])
    compared = len({checkpoint_of[arm["synthetic"]] for arm in arms})   # several sets may come from one checkpoint
    return checkpoint_of[best["synthetic"]], (
        "the only one in the classifier study" if compared == 1 else
        f"the most accurate of {compared} in the classifier study ({PRIMARY_KIND})")


def study_section(path: Path, model: dict[str, str]) -> Section:
    """The section about the classifier study, from the summary of classify.py at `path`: the arms with synthetic sets
    of this model, and the arms that they are compared with."""
    heading, study = "Whether the images help to tell persons apart", read_measured(path, "contrasts")
    with input_error_if_malformed(path):
        own = {facts["name"]: facts for facts in study.get("sets", []) if is_by_model(facts, model)}
        if not own:
            return Section(heading, ["Not measured of these weights (`python classify.py`)."])
        arms = [{**arm, "recalls": {int(user): recall for user, recall in arm["recalls"].items()}}
                for arm in study["arms"] if not arm["synthetic"] or arm["synthetic"] in own]
        numbers = {user: f"user {user}" for arm in arms for user in arm["recalls"]}     # no names of persons in a card
        folds = (f" Of {study['num_folds']} folds, each with a model of its own, these weights are fold "
                 f"{min(facts['fold'] for facts in own.values())}'s." if study["num_folds"] > 1 else "")
        if (trainings := num_trainings(study)) > 1:
            folds += f" These weights are one of {trainings} trainings of the generator in a fold."
        compared = len({facts["name"] for facts in study["sets"]})
        chosen = (f" Of {compared} sets the table of accuracies shows this model's; if it was chosen for these "
                  "figures, they are a little too good, and those in this paragraph are not." if compared > 1 else "")
        verdict = study_verdict(study)
        return Section(heading, [" ".join([verdict.line, *verdict.details]) + chosen + folds, *(
            f"The images of {name} were generated with {sampling_of(facts)}." for name, facts in own.items())],
                       [contrasts_table(study), accuracies_table({**study, "names": numbers, "arms": arms})])


def sampling_of(facts: dict[str, Any]) -> str:
    """The sampling constants of a synthetic set as text; facts: as in data.synthetic_sets.facts_of."""
    return ", ".join(f"{name.removeprefix('sampling_')} {value}" for name, value in facts.items()
                     if name.startswith("sampling_"))


def fidelity_section(path: Path, model: dict[str, str]) -> Section:
    """The section about fidelity, from fidelity.json of microdoppler.fidelity at `path`: metrics over all users."""
    heading, report = "How like real images, how varied, how new", read_measured(path, "made_by")
    with input_error_if_malformed(path):
        made_by = report.get("made_by", {})
        if not is_by_model(made_by, model):
            return Section(heading, ["Not measured of these weights (`python -m microdoppler.fidelity`)."])
        overall = {"users": {}, "copy_bars": report.get("copy_bars", []), "all": {
            kind: {name: math.nan if value is None else value for name, value in values.items()}     # JSON has no NaN
            for kind, values in report["all"].items()}}
        return Section(heading, [f"Images generated with {sampling_of(made_by)}.", *sentences(overall)],
                       tables(overall))


def training_section(metrics: Path, step: int) -> Section:
    """The section about the milestone at this step: what training measured on the few images of its sample picture;
    metrics: path of metrics.jsonl."""
    heading = "When it was saved"
    milestones = read_metrics(metrics).milestones if metrics.exists() else {}
    if step not in list(milestones.get("step", ())):
        return Section(heading, ["Not measured of these weights."])
    at = list(milestones["step"]).index(step)
    figures = {"recognised": "recognised", "diversity": "diversity", "copies": "near-copies"}
    rows = [["samples", *(f"{milestones[name][at]:.3f}" for name in figures)]]
    has_yardstick = math.isfinite(milestones["held_out_recognised"][at])
    if has_yardstick:
        of_held_out = milestones["held_out_count"][at]
        rows.append([f"{of_held_out:.0f} held-out real images" if of_held_out > 0 else "held-out real images",
                     *(f"{milestones[f'held_out_{name}'][at]:.3f}" for name in figures)])
    count = how_many(milestones["num_samples"][at])
    texture = {name: milestones[name][at] for name in ("speckle", "speckle_of_vae", "radial_db", "doppler_db")}
    return Section(heading, [
        f"Step {step}. Told a wrong user, the network's loss rises by {milestones['class_gain'][at]:.1%}."
        + (" The samples have {speckle:.2f} times the speckle contrast of training images; after the VAE, these "
           "have {speckle_of_vae:.2f} times their own. The samples' spectra lie {radial_db:.1f} dB (radial) and "
           "{doppler_db:.1f} dB (Doppler) from those of training images.".format(**texture)
           if math.isfinite(texture["speckle"]) else "")],
        tables=[Table(["", *figures.values()], [[cell.replace("nan", "?") for cell in row] for row in rows],
                      f"Of the few images that training generates at a milestone{f' ({count})' if count else ''}: the "
                      "share recognised as their user, their diversity by that of training images, and the share of "
                      "near-copies. " + ("The values to reach are those of held-out real images." if has_yardstick else
                                         "What held-out real images would give is unknown."))])


def data_section(config: dict[str, Any], classes: list[str], split: dict[str, Any],
                 statistics: dict[str, Any]) -> Section:
    """The section about the training data: users, images, split and latents.

    config: plain values of Config; classes: names of the users' folders; split: Split.identity(); statistics: plain
    values of LatentStatistics, {} when unknown.
    """
    users, each, side = (config[name] for name in ("num_users", "images_per_user_train", "image_size"))
    names = ("strategy", "fold", "guard", "validation", "seed")
    shape = f"{config['latent_channels']} x {config['latent_size']} x {config['latent_size']}"
    count = f"{users * each}: {each} per user" if isinstance(each, int) else f"{each} of each user's"
    validated = split.get("validation")
    label = f"training images (about {validated:.0%} of them for validation)" if validated else "training images"
    rows = [["users", f"{users}: {shortened(classes)}"], [label, f"{count}, {side} x {side} px"],
            ["split", ", ".join(f"{name} {split[name]}" for name in names if name in split) or "not recorded"],
            ["hash of the training images' paths", str(split.get("train_images", "not recorded"))],
            ["latents", shape + "".join(f", {name} {' '.join(f'{value:.3f}' for value in statistics[name])}"
                                        for name in ("mean", "std") if name in statistics)]]
    return Section("Data", ["The spectrograms themselves are not part of this folder. Test images of the same "
                            "users are those that the split leaves out."], [Table(["", ""], rows)])


def config_section(config: dict[str, Any]) -> Section:
    """The section with all constants; config: plain values of Config, without paths."""
    rows = [[name, str(value)] for name, value in config.items()]
    return Section("Config", tables=[Table(["constant", "value"], rows, "What it was trained with, but for the paths; "
                                           "the header of `model.safetensors` holds it too.")])


def write_card(path: Path, *, facts: Sequence[tuple[str, str]], num_users: int, is_gait: bool,
               sample_shape: tuple[int, ...], sections: Sequence[Section]) -> None:
    """Write the card to `path`.

    facts: (name, value) of the weights; is_gait: whether the classes are walking persons; sample_shape: shape of 16
    images from ImageGenerator.sample; sections: in their order.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    weights = Table(["", ""], [[name, value] for name, value in facts]).as_markdown()
    write_text(path, environment.from_string(TEMPLATE).render(
        subjects=f"{num_users} " + ("walking persons" if is_gait else "classes"), is_gait=is_gait,
        weights=weights, sample_shape=sample_shape, sections=sections))


TEMPLATE = """---
library_name: microdoppler-diffusion
tags:
- latent-diffusion
- class-conditional
- radar
- micro-doppler
- spectrogram
{% if is_gait %}
- gait
{% endif %}
- synthetic-data
---

# Micro-Doppler spectrograms of {{ subjects }}: a latent diffusion model

Generates new spectrograms of each of them: a U-Net that denoises the latents of a KL-VAE, conditioned on the class,
with classifier-free guidance. `model.safetensors` holds its averaged (EMA) weights and its configuration,
`vae.safetensors` the VAE.

{{ weights }}

## Use

With `microdoppler-diffusion` installed (`pip install -e .` in its folder), and this folder at `model/`:

```python
from microdoppler import ImageGenerator
generator = ImageGenerator.load("model")
images = generator.sample(user=1, count=16, seed=0)     # {{ sample_shape }} in [0, 1]
```

As files: `python generate.py --checkpoint model --all_users --samples_per_user 50 --output_dir synthetic_data/set`.

{% for section in sections %}
## {{ section.heading }}

{% for paragraph in section.paragraphs %}
{{ paragraph }}

{% endfor %}
{% for table in section.tables %}
{{ table.as_markdown() }}

{% endfor %}
{% endfor %}
## Limits

- It generates what it was trained on and nothing else: as it moved in the recordings, as that radar saw
  them.
- An image may be a near-copy of a training image; where it was measured, the share stands above. Who shares the weights
  or the images of persons shares how they move, by which they can be told apart: have their consent.
- Of fine speckle there is what the VAE keeps, less than in a recording.
- Whether the images help is told only by images that the split above leaves out: on training images, or on another
  split, the result is too good.
- `noise_level` below 1 starts from encoded training images, which are not part of this folder.

## Licence

None is stated: whoever publishes these weights chooses one, and adds `license:` to the header. The code's is MIT.
"""
