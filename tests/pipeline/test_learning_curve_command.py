"""python -m microdoppler.learning_curve: the study at several numbers of real images, with the same test images."""
import json

import pytest
import tyro

from groundwork.errors import InputError
from groundwork.files import read_json
from microdoppler.pipeline.learning_curve import FOLDER, learning_curve
from train_latent_cfg import PRESETS, Config


def test_a_curve_from_few_images_to_all_and_again_from_what_is_stored(paths, capsys):
    config = tyro.cli(Config, args=[*paths[2:], "--train_num_steps", "2", "--save_and_sample_every", "2"],
                      default=PRESETS["cpu-minutes"], use_underscores=True)
    result = learning_curve(config, sizes=(3,), samples_per_user=2, seeds=2)
    folder = config.results_folder / FOLDER
    few, every = result["sizes"]
    assert few == 3 < every and set(result["accuracies"]) >= {"real only", "real + classical", "real + cuts",
                                                                     "real + synthetic"}
    splits = [read_json(folder / f"images_{number}" / "latents_cache" / "data_split.json")["users"]
              for number in result["sizes"]]
    for user, own in splits[0].items():
        assert own["train_images"] == splits[1][user]["train_images"][:3]
        assert own["test_images"] == splits[1][user]["test_images"]
    assert json.loads((folder / "learning_curve.json").read_text(encoding="utf-8")) == result
    assert (folder / "learning_curve.png").exists()
    assert "real images alone" in (folder / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert learning_curve(config, sizes=(3,), samples_per_user=2, seeds=2) == result
    assert "0 images generated" in capsys.readouterr().out
    with pytest.raises(InputError, match=f"--sizes {every}; expected less than {every}"):
        learning_curve(config, sizes=(every,))
