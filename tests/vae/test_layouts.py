"""VAE weights of other people: their names, wrappers and files, and files that hold something else.

The outputs in tests/fixtures/diffusers_vae.npz are those of diffusers 0.42.1: AutoencoderKL(block_out_channels=(32, 64,
64), layers_per_block=1) with the weights of tests/parity.py, for images mapped to -1 … 1 and back.
"""
import argparse
import json
import re
import sys
from types import ModuleType

import numpy as np
import parity
import pytest
import torch
from torch import nn

from groundwork.errors import InputError
from groundwork.files import load_tensors, save_safetensors, save_tensors
from vae import KL_VAE

SHAPES = "diffusers_vae.shapes.json"
LATENT_DIFFUSION = [        # what the names of diffusers are in latent-diffusion
    (r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"), (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"), (r"up_blocks\.0", "up.2"),
    (r"up_blocks\.1", "up.1"), (r"up_blocks\.2", "up.0"), (r"upsamplers\.0", "upsample"), ("resnets", "block"),
    ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"), ("group_norm", "norm"),
    ("to_out.0", "proj_out"), (r"to_(q|k|v)", r"\1")]
EARLIER = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), (r"to_out\.0", "proj_attn")]
OURS = {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1}


def diffusers_weights():
    return parity.state_dict(SHAPES)


def renamed(weights, table):
    def name(key):
        for pattern, replacement in table:
            key = re.sub(pattern, replacement, key)
        return key
    return {name(key): weight for key, weight in weights.items()}


def latent_diffusion_weights():
    weights = renamed(diffusers_weights(), LATENT_DIFFUSION)
    return {key: weight[:, :, None, None] if "attn_1" in key and weight.ndim == 2 else weight
            for key, weight in weights.items()}


def prefixed(prefix, weights):
    return {prefix + key: weight for key, weight in weights.items()}


@torch.no_grad()
def assert_computes_as_diffusers(vae):
    expected = {name: torch.from_numpy(value) for name, value in
                np.load(parity.FIXTURES / "diffusers_vae.npz").items()}
    posterior, decoded = vae.encode(expected["x"]), vae.decode(expected["z"])
    for found, name in ((posterior.mean, "mean"), (posterior.logvar, "logvar"), (decoded, "decoded")):
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-4)


REST = {"model.diffusion_model.time_embed.0.weight": torch.ones(2), "cond_stage_model.x": torch.ones(2),
        "betas": torch.ones(2), "first_stage_model.loss.logvar": torch.ones(1)}
FILES = {
    "diffusers": lambda: diffusers_weights(),
    "diffusers, earlier names": lambda: renamed(diffusers_weights(), EARLIER),
    "diffusers, in a wrapper": lambda: {"epoch": 3, "model": prefixed("module.", diffusers_weights())},
    "latent-diffusion": lambda: {"state_dict": latent_diffusion_weights() | {"loss.logvar": torch.ones(2)}},
    "all of latent-diffusion": lambda: {
        "state_dict": prefixed("first_stage_model.", latent_diffusion_weights()) | REST
        | {"cond_stage_model.quantize.embedding.weight": torch.ones(2)}},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_vae_of_others_computes_what_it_does_there(tmp_path, capsys, content):
    save_tensors(tmp_path / "vae.ckpt", content())
    vae = KL_VAE.load(tmp_path / "vae.ckpt")
    assert_computes_as_diffusers(vae)
    assert "in the layout of" in capsys.readouterr().out
    vae.save_safetensors(tmp_path / "ours.safetensors")         # as export.py shares it
    again = KL_VAE.load(tmp_path / "ours.safetensors")
    assert_computes_as_diffusers(again)
    assert again.fingerprint() == vae.fingerprint() and capsys.readouterr().out == ""


def test_a_folder_or_file_of_diffusers_is_read_with_its_config(tmp_path):
    save_safetensors(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", diffusers_weights(), {})
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.13025, "norm_num_groups": 32, "act_fn": "silu"}
    for changes, named in (({"norm_num_groups": 16}, "norm_num_groups 16"), ({"act_fn": "gelu"}, "gelu"),
                           ({"_class_name": "VQModel"}, "describes VQModel"), ({"_class_name": None}, "no network"),
                           ({"scaling_factor": "a"}, "scale factor 'a'")):
        (tmp_path / "vae" / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=named):
            KL_VAE.load(tmp_path / "vae")
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "vae", tmp_path / "vae" / "diffusion_pytorch_model.safetensors"):
        assert KL_VAE.load(path).scale_factor == 0.13025
    (tmp_path / "unet").mkdir()
    with pytest.raises(InputError, match="folder without .*, which holds nothing; .*--vae_path"):
        KL_VAE.load(tmp_path / "unet")


def test_of_several_files_the_one_in_full_precision_is_taken(tmp_path):
    zeros = {key: torch.zeros_like(weight) for key, weight in diffusers_weights().items()}
    def written(name, weights):
        save = save_tensors if name.endswith("bin") else lambda path, weights: save_safetensors(path, weights, {})
        save(tmp_path / f"diffusion_pytorch_model.{name}", weights)
        return KL_VAE.load(tmp_path).post_quant_conv.bias.abs().sum() > 0
    assert not written("fp16.bin", zeros)
    assert written("fp16.safetensors", diffusers_weights()) and not written("bin", zeros)
    assert written("safetensors", diffusers_weights())


def test_weights_in_parts_are_named_as_such(tmp_path):
    save_safetensors(tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors", diffusers_weights(), {})
    with pytest.raises(InputError, match="without .*, which holds diffusion_pytorch_model-00001-of-00002"):
        KL_VAE.load(tmp_path)


def test_weights_of_diffusers_without_their_config_say_what_is_assumed(tmp_path, capsys):
    save_safetensors(tmp_path / "a.safetensors", diffusers_weights(), {})
    KL_VAE.load(tmp_path / "a.safetensors")
    assert "without config.json: taken to have 32 groups" in capsys.readouterr().out


def test_a_checkpoint_of_latent_diffusion_is_read_without_lightning(tmp_path):
    """As PyTorch Lightning 1.4 wrote it: with its own class as a key, and a loss that is NumPy's."""
    class ModelCheckpoint:
        pass
    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = "pytorch_lightning.callbacks.model_checkpoint", (
        "ModelCheckpoint")
    module = ModuleType(ModelCheckpoint.__module__)
    module.ModelCheckpoint = ModelCheckpoint
    loss = np.float64(0.5)
    content = {"state_dict": latent_diffusion_weights(), "callbacks": {ModelCheckpoint: {"best_model_score": loss}}}
    parts = module.__name__.split(".")
    with pytest.MonkeyPatch.context() as patch:
        for end in range(1, len(parts)):
            patch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=False)
    written, before = (tmp_path / "model.ckpt").read_bytes(), set(torch.serialization.get_safe_globals())
    assert b"numpy._core.multiarray" in written
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):      # of NumPy from 2.0 on, and before
        (tmp_path / "model.ckpt").write_bytes(written.replace(b"numpy._core.multiarray", name))
        assert_computes_as_diffusers(KL_VAE.load(tmp_path / "model.ckpt"))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(InputError, match="ModelCheckpoint"):        # no diffusion checkpoint of ours has such a thing
        load_tensors(tmp_path / "model.ckpt")


def test_a_vae_without_quant_conv_has_the_identity_there(tmp_path):
    weights = {key: weight for key, weight in diffusers_weights().items() if "quant" not in key}
    save_tensors(tmp_path / "vae.pt", weights)
    vae, x = KL_VAE.load(tmp_path / "vae.pt"), torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(vae.encode(x).mean, vae.encoder(2 * x - 1)[:, :4])


@pytest.mark.parametrize("wrap", [
    lambda weights: prefixed("module.", weights), lambda weights: prefixed("_orig_mod.module.", weights),
    lambda weights: {"model": prefixed("vae.", weights)}, lambda weights: {"state_dict": weights, "epoch": 1},
    lambda weights: {part: {key.removeprefix(f"{part}."): weight for key, weight in weights.items()
                            if key.startswith(f"{part}.")}
                     for part in ("encoder", "decoder", "quant_conv", "post_quant_conv")},
    lambda weights: {"model": {key: 0 * weight for key, weight in weights.items()}, "model_ema": weights},
    lambda weights: {"step": 3, "model": {key: 0 * weight for key, weight in weights.items()}, "average": weights}],
    ids=["module", "compiled", "model, vae", "state_dict", "its parts", "averaged", "state of vae.train"])
def test_wrappers_go_and_averaged_weights_come_first(tmp_path, wrap):
    torch.manual_seed(0)
    vae = KL_VAE(OURS)
    save_tensors(tmp_path / "vae.pt", wrap(vae.state_dict()))
    assert KL_VAE.load(tmp_path / "vae.pt").fingerprint() == vae.fingerprint()


def with_weights(**changes):
    return latent_diffusion_weights() | changes


@pytest.mark.parametrize("content, named", [
    (lambda: REST, "the U-Net of a diffusion checkpoint"),
    (lambda: {"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, "U-Net"),
    (lambda: prefixed("module.", {"layer1.0.conv1.weight": torch.ones(1)}), "a ResNet"),
    (lambda: with_weights(**{"quantize.embedding.weight": torch.ones(4, 4)}), "VQ autoencoder"),
    (lambda: {"encoder.layers.1.conv.0.weight": torch.ones(1)}, "tiny autoencoder"),
    (lambda: {"encoder.conv_in.conv.weight": torch.ones(1)}, "video autoencoder"),
    (lambda: {"text_model.embeddings.x": torch.ones(1)}, "text encoder"),
    (lambda: with_weights(**{"encoder.down.2.attn.0.q.weight": torch.ones(64, 64, 1, 1)}), "attention outside the mid"),
    (lambda: {key: weight for key, weight in diffusers_weights().items() if "attentions" not in key},
     "no attention in the middle"),
    (lambda: {key: weight for key, weight in diffusers_weights().items() if not key.startswith("decoder")},
     "without decoder.conv_out.weight"),
    (lambda: with_weights(**{"encoder.conv_in.weight": torch.ones(32, 4, 3, 3)}), "images of 4 channels into .* 3"),
    (lambda: with_weights(**{"encoder.conv_in.weight": torch.ones(32, 3, 3, 3, 3)}), "expected a 2-D convolution"),
    (lambda: with_weights(**{"encoder.down.1.block.0.conv1.weight": torch.ones(48, 32, 3, 3)}), "multiples of 32"),
    (lambda: {"model_state_dict": KL_VAE(OURS).state_dict(), "scale_factor": -1.0}, "scale factor -1.0"),
])
def test_what_cannot_be_converted_is_named_as_what_it_is(tmp_path, content, named):
    save_tensors(tmp_path / "vae.pt", content())
    with pytest.raises(InputError, match=named) as refused:
        KL_VAE.load(tmp_path / "vae.pt")
    assert "\n" not in str(refused.value)


def test_a_missing_vae_names_its_option_and_the_page(tmp_path):
    with pytest.raises(InputError, match="none.pt does not exist; .*--vae_path.*docs/own_vae.md"):
        KL_VAE.load(tmp_path / "none.pt")


def test_a_file_that_torch_cannot_load_safely_is_named_as_what_it_is(tmp_path):
    path = tmp_path / "kl_vae_best.pt"

    def refusal():
        with pytest.raises(InputError) as refused:
            KL_VAE.load(path)
        return str(refused.value)
    for zipped in (True, False):
        torch.save(nn.Sequential(nn.Conv2d(1, 1, 1)), path, _use_new_zipfile_serialization=zipped)
        assert "whole module (torch.nn.modules.container.Sequential)" in refusal()
        assert "torch.save(model.state_dict()" in refusal()
    torch.save({"state_dict": {}, "options": argparse.Namespace(a=1)}, path)
    assert "argparse.Namespace" in refusal() and "run code" in refusal() and "module" not in refusal()
    for content, named in (("Weights are at …\nüü", "text file that begins with 'Weights are at …'"),
                           ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
                           ("<!DOCTYPE html><html>", "web page"), ("é" * 64, "text file")):
        path.write_text(content)
        assert named in refusal() and "run code" not in refusal()
    save_safetensors(path.with_suffix(".safetensors"), {"a": torch.ones(2)}, {})
    path.write_bytes(path.with_suffix(".safetensors").read_bytes())
    assert "must end in .safetensors" in refusal()
