"""A run's own constants in every later command, with --config results/config.json or from its checkpoint."""
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

from groundwork.files import read_json
from microdoppler.figures.legend import Legend
from microdoppler.pipeline.synthetic_folder import draw_grid
from train_latent_cfg import Config


def test_a_training_is_repeated_with_the_constants_of_another(script, demo, tmp_path):
    results = demo[0] / "results"
    script("train_latent_cfg.py", "--config", results, "--results_folder", tmp_path / "again", "--train_num_steps", "5")
    changed = {"results_folder": str(tmp_path / "again"), "train_num_steps": 5}
    assert read_json(tmp_path / "again" / "config.json") == read_json(results / "config.json") | changed


def test_images_are_those_of_the_checkpoint_unless_the_file_says_otherwise(script, demo, tmp_path):
    folder = demo[0]
    wanted = ["--user_id", "2", "--num_samples", "1"]
    out, _ = script("generate.py", "--config", folder / "results", *wanted, "--output_dir", tmp_path / "same")
    assert "other than the checkpoint's own" not in out
    made, shown = (path / "ID_2" / "ID2_synthetic_Doppler1.png" for path in (tmp_path / "same", folder / "synthetic"))
    assert made.read_bytes() == shown.read_bytes()
    manifest, first = (read_json(path / "manifest.json") for path in (tmp_path / "same", folder / "synthetic"))
    assert manifest | {"images": None, "checkpoint": None} == first | {"images": None, "checkpoint": None}

    (tmp_path / "mine.json").write_text(json.dumps({"cond_scale": 3.0, "num_samples": 7,
                                                    "results_folder": str(folder / "results")}))
    out, _ = script("generate.py", "--config", tmp_path / "mine.json", "--user_id", "2", "--output_dir",
                    tmp_path / "stronger", "--no_save_grid")
    assert f"other than the checkpoint's own: cond_scale {Config.cond_scale} (now 3.0)" in out
    assert "16 images generated" in out     # the 7 are those of training's sample pictures
    assert read_json(tmp_path / "stronger" / "manifest.json")["cond_scale"] == 3.0


def test_fidelity_finds_its_data_and_split(script, demo, tmp_path):
    folder = demo[0]
    out, _ = script("-m", "microdoppler.fidelity", "--config", folder / "results", "--synthetic", folder / "synthetic",
                    "--output", tmp_path / "fidelity")
    assert f"report: {tmp_path}" in out


def test_real_images_beside_synthetic_ones_are_cut_as_in_training(tmp_path):
    """The white margin of the real file is not shown."""
    picture = np.full((40, 40), 255, np.uint8)
    picture[10:30, 10:30] = 0
    for folder, pixels in (("data", picture), ("drawn", np.zeros((20, 20), np.uint8))):
        (tmp_path / folder / "ID_3").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "ID_3" / "1.png")
    config = replace(Config(), data_path=tmp_path / "data", image_size=20, crop=(10.0, 10.0, 30.0, 30.0))
    generator = SimpleNamespace(config=config, legend=Legend({3: "ID_3"}, {3: "user 3"}, None))
    figure = draw_grid(tmp_path / "drawn", ["ID_3/1.png"], [3], generator)
    real, synthetic = (image for part in figure.subfigs for axes in part.axes for image in axes.images)
    assert np.asarray(real.get_array()).max() == np.asarray(synthetic.get_array()).max() == 0
