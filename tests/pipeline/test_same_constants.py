"""--config results/config.json: a run's own constants in every later command."""
import json

from groundwork.files import read_json
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
    assert "16 images drawn" in out     # the 7 are those of training's sample pictures
    assert read_json(tmp_path / "stronger" / "manifest.json")["cond_scale"] == 3.0


def test_fidelity_finds_its_data_and_split(script, demo, tmp_path):
    folder = demo[0]
    out, _ = script("-m", "microdoppler.fidelity", "--config", folder / "results", "--synthetic", folder / "synthetic",
                    "--output", tmp_path / "fidelity")
    assert f"report: {tmp_path}" in out
