"""The functions as people call them from Python: in a thread, with text for paths, and with mistakes."""
import asyncio
import os
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import classify
import demo as demo_script
import export
import monitor_training
from groundwork.files import read_json
from microdoppler import Config, ImageGenerator, InputError, Sampling, generate, train
from microdoppler.data import latents_command
from microdoppler.pipeline.constants import check_new_config
from microdoppler.pipeline.synthetic_folder import classify_command
from train_latent_cfg import PRESETS


@pytest.fixture
def config(demo, tmp_path):
    """The demo's constants, for a short training of its own, with paths as text and lists for tuples."""
    constants = read_json(demo[0] / "results" / "config.json")
    return Config(**constants | {"results_folder": str(tmp_path / "my results"), "train_num_steps": 2,
                                 "save_and_sample_every": 2, "log_with": "none"})


def test_it_trains_in_a_thread_and_says_what_is_next(config, capsys):
    """As the servers of notebooks run a cell."""
    async def cell():
        return await asyncio.get_running_loop().run_in_executor(None, train, config)
    assert asyncio.run(cell())
    printed = capsys.readouterr().out
    assert "Ctrl-C and SIGTERM do not save" in printed
    words = shlex.split(printed.rpartition("next: ")[2])
    assert words[1].endswith("generate.py") and Path(words[3]) == config.results_folder / "model-1.pt"
    assert words[words.index("--samples_per_user") + 1] == str(config.images_per_user_train) == "10"


def test_text_lists_and_single_values_are_what_they_mean(demo, tmp_path):
    assert Config(data_path="x", dim_mults=[1, 2], adam_betas=np.array([0.9, 0.99]), num_users=np.int64(3)) == Config(
        data_path=Path("x"), dim_mults=(1, 2), adam_betas=(0.9, 0.99), num_users=3)
    results = str(demo[0] / "results")
    generate(checkpoint=results, user_id=2, num_samples=1, output_dir=str(tmp_path / "a"),
             sampling=Sampling(guidance_interval=[0.1, 0.9]), device="cpu")
    generate(checkpoint=results, user_id=np.array([1, 3]), num_samples=1, output_dir=str(tmp_path / "b"), device="cpu")
    folders = [sorted(path.name for path in (tmp_path / name).glob("ID_*")) for name in "ab"]
    assert folders == [["ID_2"], ["ID_1", "ID_3"]]
    config = PRESETS["cpu-minutes"]
    for call in (lambda: classify.main(config, synthetic="absent", folds=0), lambda: monitor_training.main(
            replace(config, results_folder="absent"), html="x.html"), lambda: demo_script.main(config, output_dir=3)):
        with pytest.raises(InputError, match="absent|output_dir is 3; expected an instance of Path"):
            call()


@pytest.mark.parametrize("call, message", [
    (lambda: generate(samples_per_user="2", all_users=True), "samples_per_user is '2'; expected a valid integer"),
    (lambda: generate(user_id="ID_3"), "user_id is .'ID_3',.; expected a valid integer"),
    (lambda: train("results"), "config is 'results'; expected a Config"),
    (lambda: check_new_config(Config(preset="cpu-minutes", num_users=2, dim=16)),
     'does not have the constants of this preset; expected PRESETS."cpu-minutes".'),
    (lambda: check_new_config(Config(preset="fast")), "preset fast is unknown; expected one of full, cpu-hours, cpu"),
    (lambda: demo_script.main(replace(PRESETS["cpu-minutes"], num_users=1)), "num_users is 1; expected 2 or more"),
    (lambda: generate(checkpoint="absent", all_users=True), "^absent does not exist; train first")])
def test_a_mistake_is_said_in_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("options", [{"user": "3"}, {"user": 1.5}, {"user": 4}, {"user": 1, "seed": -1},
                                     {"user": 1, "count": 0}])
def test_a_generator_refuses_what_it_cannot_draw(demo, options):
    generator = ImageGenerator.load(str(demo[0] / "results"), "cpu")
    with pytest.raises(InputError):
        generator.sample(**options)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_with_some_constants_changed_is_one(name):
    check_new_config(replace(PRESETS[name], image_size=32, latent_size=8, num_users=31, train_num_steps=150000))


def test_a_vae_that_was_moved_is_asked_for(demo, tmp_path):
    config = read_json(demo[0] / "results" / "config.json")
    moved = (demo[0] / "kl_vae_best.pt").rename(tmp_path / "moved.pt")
    try:
        with pytest.raises(InputError, match=f"trained with the VAE {config['vae_path']}, .* with --vae_path"):
            ImageGenerator.load(demo[0] / "results", "cpu")
        assert ImageGenerator.load(demo[0] / "results", "cpu", vae_path=str(moved)).vae
    finally:
        moved.rename(demo[0] / "kl_vae_best.pt")


def test_what_is_given_no_name_goes_beside_what_it_comes_from(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = demo[0]
    latents_command.main(latents_cache_folder=folder / "latents_cache")
    export.main(checkpoint=folder / "results" / "model-3.pt")
    written = [folder / "latents_cache" / "latents.npz", *(folder / "results" / "export").iterdir()]
    assert len(written) == 4 and not list(tmp_path.iterdir())
    for path in written:
        path.unlink()
    (folder / "results" / "export").rmdir()


def test_the_command_for_classify_says_where_a_data_set_is_missing(tmp_path):
    assert "--data_path DATA " in classify_command(Config(data_path=tmp_path / "not here"), Path("a"))
    assert f"--data_path {tmp_path} " in classify_command(Config(data_path=tmp_path), Path("a"))


def test_read_only_results_are_reported_without_figures(demo, capsys):
    """By another user, since root may write everywhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        results.mkdir()
        for name in ("config.json", "metrics.jsonl"):
            (results / name).write_bytes((demo[0] / "results" / name).read_bytes())
        os.chmod(folder, 0o755)
        os.seteuid(65534)
        try:
            monitor_training.main(replace(Config(), results_folder=results))
        finally:
            os.seteuid(0)
        printed = capsys.readouterr().out
    assert "step 12 of 12" in printed and "figure:" not in printed
    assert printed.count(f"warning: {results / 'training.png'} was not written (Permission denied)") == 1
