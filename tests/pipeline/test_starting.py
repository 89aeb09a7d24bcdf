"""Training that starts from the weights of another training: what is taken, what is new, what is refused."""
from dataclasses import replace

import pytest
import torch

from denoising_diffusion_pytorch import Unet
from denoising_diffusion_pytorch.checkpoint import ema_unet_weights, load_checkpoint, load_starting_weights
from groundwork.errors import InputError
from groundwork.files import digest_tensors
from microdoppler.pipeline.assembly import build_diffusion
from microdoppler.pipeline.constants import config_of
from microdoppler.pipeline.sharing import export
from microdoppler.pipeline.starting import take_weights
from microdoppler.pipeline.training import train


def unet(num_classes, dim=8):
    return Unet(dim, num_classes, dim_mults=(1, 2), channels=2, attn_dim_head=8, attn_heads=2)


def test_as_many_classes_as_before_are_taken_as_they_are():
    old, new = unet(5), unet(5)
    load_starting_weights(new, old.state_dict(), "model-1.pt")
    assert digest_tensors(new.state_dict()) == digest_tensors(old.state_dict())


def test_new_classes_are_like_the_old_ones_and_everything_else_is_taken():
    torch.manual_seed(0)
    old, new = unet(40), unet(4000)
    torch.nn.init.normal_(old.classes_emb.weight, mean=3, std=0.1)
    load_starting_weights(new, old.state_dict(), "model-1.pt")
    drawn, before = new.classes_emb.weight, old.classes_emb.weight
    torch.testing.assert_close(drawn.mean(0), before.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.std(0), before.std(0), rtol=0.1, atol=0)
    for name, weight in new.state_dict().items():
        assert name == "classes_emb.weight" or torch.equal(weight, old.state_dict()[name]), name


def test_other_shapes_are_named():
    with pytest.raises(InputError, match=r"model-1.pt .*: classes_emb.weight is \(4, 8\), expected \(4, 16\)"):
        load_starting_weights(unet(4, dim=16), unet(4).state_dict(), "model-1.pt")


def start(script, paths, tmp_path, *options, expect=0):
    """The second training of the tests below: of two of the three users, for two steps."""
    return script("train_latent_cfg.py", *paths, "--num_users", "2", "--train_num_steps", "2",
                  "--save_and_sample_every", "1", "--latents_cache_folder", tmp_path / "cache", *options, expect=expect)


def test_a_training_of_other_users_starts_from_the_weights_and_says_so(script, paths, demo, tmp_path):
    first = demo[0] / "results" / "model-3.pt"
    out, _ = start(script, paths, tmp_path, "--start_from", demo[0] / "results", "--max_train_hours", "1e-9")
    assert f"started from {first}: step 12" in out and "new embeddings for 2 classes (it had 3)" in out
    assert "--resume latest instead of --start_from" in out
    weights = ema_unet_weights(load_checkpoint(first))
    stopped = load_checkpoint(tmp_path / "results" / "model-1.pt")
    assert stopped["step"] == 1
    assert stopped["started_from"] == {"path": str(first), "step": 12, "weights": digest_tensors(weights)}
    name = "mid_block1.block1.proj.weight"      # Adam's first step moves a weight by at most the learning rate
    assert (stopped["model"][f"model.{name}"] - weights[name]).abs().max() <= 1.01e-3
    start(script, paths, tmp_path, "--resume", "latest")
    resumed = load_checkpoint(tmp_path / "results" / "model-2.pt")
    assert resumed["step"] == 2 and resumed["started_from"] == stopped["started_from"]
    export(checkpoint=tmp_path / "results" / "model-2.pt", output_dir=tmp_path / "shared")
    shared = load_checkpoint(tmp_path / "shared" / "model.safetensors")
    assert "path" not in shared["started_from"] and "started from" in (tmp_path / "shared" / "README.md").read_text()


def test_a_start_that_cannot_be_is_refused_in_one_line_and_writes_nothing(demo, tmp_path):
    first = demo[0] / "results"
    config = replace(config_of(load_checkpoint(first / "model-3.pt")), results_folder=tmp_path / "results")
    for changes, options, named in (
            ({}, {"start_from": first, "resume": "latest"}, "--resume goes on .* and --start_from begins one"),
            ({"dim": 32, "objective": "pred_x0"}, {"start_from": first}, r"--start_from .*dim 16 \(now 32\), .*_x0"),
            ({"standardize_latents": False}, {"start_from": first}, "standardize_latents True"),
            ({}, {"start_from": demo[0] / "data"}, "no checkpoint in .*data"),
            ({}, {"start_from": demo[0] / "kl_vae_best.pt"}, "no diffusion checkpoint")):
        with pytest.raises(InputError, match=named):
            train(replace(config, **changes), **options)
    assert not (tmp_path / "results").exists()


def test_a_start_on_the_latents_of_another_vae_warns(demo, capsys):
    first = demo[0] / "results" / "model-3.pt"
    config = config_of(load_checkpoint(first))
    take_weights(first, config, build_diffusion(config), load_checkpoint(first)["vae_fingerprint"])
    out = capsys.readouterr().out
    assert "its 3 class embeddings too" in out and "warning" not in out
    take_weights(first, config, build_diffusion(config), "another")
    assert "warning: " in capsys.readouterr().out
