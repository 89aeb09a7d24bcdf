"""The model card of shared weights (Mitchell et al. 2019): what they are, of which data, how good, how to use them.

Markdown with the YAML header that Hugging Face's hub reads. Only what was measured of these very weights is in it, told
by their hash; what was not says so.
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
from microdoppler.study.report import conclusion, result_tables
from microdoppler.watch.metrics import read_metrics

CHOSEN_BY = "real + synthetic"      # the arm whose accuracy says which of several models is best


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises InputError when what is read from `path` is otherwise than it was written."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be understood ({type(error).__name__}: {error}); move it away, and make it "
                         "anew") from None


def read_measured(path: Path, key: str) -> dict[str, Any]:
    """A file of results; empty where there is none, or one of before `key`, which says which models it is of."""
    found = read_json(path) if path.exists() else {}
    return found if isinstance(found, dict) and key in found else {}


def is_of(facts: dict[str, Any], model: dict[str, str]) -> bool:
    """Whether facts_of a synthetic set are of this model, {"model_weights", "model_vae": hashes}."""
    return all(facts.get(name) == value for name, value in model.items())


def best_checkpoint(study: Path, folder: Path) -> tuple[Path, str] | None:
    """(that checkpoint in `folder` whose images made the most accurate classifiers beside the real ones, why it); None
    when classify.py's summary at `study` has none of them."""
    found = read_measured(study, "sets")
    with reading(study):
        drawn_by = {drawn["name"]: path for drawn in found.get("sets", [])
                    if (path := Path(drawn["model_checkpoint"])).resolve().parent == folder.resolve()
                    and path.is_file()}
        arms = [arm for arm in found.get("arms", []) if arm["kind"] == CHOSEN_BY and arm["synthetic"] in drawn_by]
        if not arms:
            return None
        best = max(arms, key=lambda arm: arm["accuracy"])
    compared = len({drawn_by[arm["synthetic"]] for arm in arms})        # one may have drawn several sets
    return drawn_by[best["synthetic"]], ("the only one in the classifier study" if compared == 1 else
                                         f"the most accurate of {compared} in the classifier study ({CHOSEN_BY})")


def study_section(path: Path, model: dict[str, str]) -> Section:
    """From classify.py's summary: the arms of the sets that this model drew, and those that they are compared with."""
    heading, study = "Whether the images help to tell persons apart", read_measured(path, "sets")
    with reading(path):
        own = {drawn["name"]: drawn for drawn in study.get("sets", []) if is_of(drawn, model)}
        if not own:
            return Section(heading, ["Not measured of these weights (`python classify.py`)."])
        arms = [{**arm, "recalls": {int(user): recall for user, recall in arm["recalls"].items()}}
                for arm in study["arms"] if not arm["synthetic"] or arm["synthetic"] in own]
        numbers = {user: f"user {user}" for arm in arms for user in arm["recalls"]}     # names of persons stay at home
        folds = (f" Of {study['num_folds']} folds, each with a model of its own, these weights are fold "
                 f"{min(drawn['fold'] for drawn in own.values())}'s." if study["num_folds"] > 1 else "")
        compared = max(choice["num_candidates"] for choice in study["choices"])
        chosen = (f" Of {compared} sets the table shows this model's; if it was chosen for these figures, they are a "
                  "little too good, and those in this paragraph are not." if compared > 1 else "")
        return Section(heading, [conclusion(study) + chosen + folds, *(
            f"The images of {name} were drawn with {sampling_of(drawn)}." for name, drawn in own.items())],
                       result_tables({**study, "names": numbers, "arms": arms, "choices": []}))


def sampling_of(facts: dict[str, Any]) -> str:
    """How a synthetic set was drawn, of its facts_of."""
    return ", ".join(f"{name.removeprefix('sampling_')} {value}" for name, value in facts.items()
                     if name.startswith("sampling_"))


def fidelity_section(path: Path, model: dict[str, str]) -> Section:
    """microdoppler.fidelity's figures over all users."""
    heading, report = "How like real images, how varied, how new", read_measured(path, "made_by")
    with reading(path):
        made_by = report.get("made_by", {})
        if not is_of(made_by, model):
            return Section(heading, ["Not measured of these weights (`python -m microdoppler.fidelity`)."])
        overall = {"users": {}, "all": {
            kind: {name: math.nan if value is None else value for name, value in own.items()}    # JSON has no NaN
            for kind, own in report["all"].items()}}
        return Section(heading, [f"Images drawn with {sampling_of(made_by)}.", *sentences(overall)], tables(overall))


def training_section(metrics: Path, step: int) -> Section:
    """What training itself measured at this step, on the few images of its sample picture."""
    heading = "When it was saved"
    milestones = read_metrics(metrics).milestones if metrics.exists() else {}
    if step not in list(milestones.get("step", ())):
        return Section(heading, ["Not measured of these weights."])
    at = list(milestones["step"]).index(step)
    names = ("recognised", "diversity", "copies", "class_gain", "sharpness")
    return Section(heading, tables=[Table(
        ["step", *names], [[str(step), *(f"{milestones[name][at]:.3f}" for name in names)]],
        "Of the few images that training draws at a milestone: the share recognised as their user, their diversity and "
        "sharpness by that of training images (1 is right), the share of near-copies, and the relative rise of the "
        "loss when the network is told a wrong user.")])


def data_section(config: dict[str, Any], classes: list[str], split: dict[str, Any],
                 statistics: dict[str, Any]) -> Section:
    users, each, side = (config[name] for name in ("num_users", "images_per_user_train", "image_size"))
    names = ("strategy", "fold", "guard", "seed")
    shape = f"{config['latent_channels']} x {config['latent_size']} x {config['latent_size']}"
    rows = [["users", f"{users}, numbered 1 … {users}: {shortened(classes)}"],
            ["training images", f"{users * each}: {each} per user, {side} x {side} px"],
            ["split", ", ".join(f"{name} {split[name]}" for name in names if name in split) or "not recorded"],
            ["hash of the training images' paths", str(split.get("train_images", "not recorded"))],
            ["latents", shape + "".join(f", {name} {' '.join(f'{value:.3f}' for value in statistics[name])}"
                                        for name in ("mean", "std") if name in statistics)]]
    return Section("Data", ["The spectrograms themselves are not part of this folder. Test images of the same "
                            "users are those that the split leaves out."], [Table(["", ""], rows)])


def config_section(config: dict[str, Any]) -> Section:
    rows = [[name, str(value)] for name, value in config.items()]
    return Section("Config", tables=[Table(["constant", "value"], rows, "What it was trained with, but for the paths; "
                                           "the header of `model.safetensors` holds it too.")])


def write_card(path: Path, *, facts: Sequence[tuple[str, str]], num_users: int, is_gait: bool,
               sample_shape: tuple[int, ...], sections: Sequence[Section]) -> None:
    """facts: (name, value) of the weights; sample_shape: of 16 images as ImageGenerator.sample gives them."""
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

Draws new spectrograms of each of them: a U-Net that denoises the latents of a KL-VAE, conditioned on the class,
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

- It draws what it was trained on and nothing else: as it moved in the recordings, as that radar saw
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
