"""The classifier and the arms it is trained on: what is learnt, what is drawn, what repeats."""
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from toys import toy_set

from groundwork.device import half_precision
from microdoppler.study.arms import Arm
from microdoppler.study.augmentation import SuccessorIndex, shift_and_mask, shift_in_time
from microdoppler.study.classifier import (build_classifier, features, index_batches, lr_factor, predict,
                                           train_classifier)
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import plan_network
from microdoppler.study.recipe import Recipe
from microdoppler.study.scores import expected_calibration_error, score

CPU = torch.device("cpu")
RESNET18 = plan_network("resnet18", 32)


def train(arm: Arm, seed: int = 0, epochs: int = 1, batch_size: int = 4):
    recipe = Recipe(epochs=epochs, batch_size=batch_size, lr=1e-3)
    return train_classifier(arm.batches(recipe, 2, seed), network=RESNET18, num_classes=2,
                            num_steps=arm.num_steps(recipe), lr=recipe.lr, seed=seed, device=CPU)


def test_learns_what_can_be_seen():
    model, test = train(Arm(KINDS["real only"], toy_set(16, seed=0)), epochs=15, batch_size=8), toy_set(16, seed=1)
    probabilities = predict(model, test.images, batch_size=5)
    assert probabilities.shape == (32, 2) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(32))
    assert (probabilities.argmax(1) == test.labels).all()


def test_the_classifier_is_the_usual_resnet18():
    own, usual = build_classifier(plan_network("resnet18", 64), 3, seed=0), torchvision.models.resnet18(num_classes=3)
    usual.load_state_dict(own.state_dict())
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for model in (own.train(), usual.train()):
        model(images).square().sum().backward()
    for (name, parameter), (_, expected) in zip(own.named_parameters(), usual.named_parameters(), strict=True):
        assert (parameter.grad - expected.grad).norm() < 1e-3 * expected.grad.norm(), name


def test_features_are_what_the_last_layer_sees():
    model, images = build_classifier(RESNET18, 2, seed=0).eval(), toy_set(4, seed=0).images
    found = features(model, images, batch_size=3)
    assert found.shape == (8, 512)
    expected = predict(model, images).log()
    logits = found @ model.fc.weight.detach().T + model.fc.bias.detach()
    torch.testing.assert_close(logits.log_softmax(dim=1), expected, atol=0.02, rtol=0.02)     # bf16 on some CPUs
    assert LogisticRegression(max_iter=500).fit(found.numpy(), toy_set(4, seed=0).labels).score(
        found.numpy(), toy_set(4, seed=0).labels) == 1


def test_bfloat16_learns_what_float32_learns(native_bfloat16):
    assert half_precision(CPU) == torch.bfloat16
    test_learns_what_can_be_seen()


def test_result_follows_from_the_seed_alone():
    arm, results = Arm(KINDS["real + classical"], toy_set(8, seed=0)), []
    for seed in (3, 3, 4):
        torch.rand(seed)        # another global state each time
        results.append(predict(train(arm, seed), arm.real.images))
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-3)


def test_building_leaves_the_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_classifier(RESNET18, 2, seed=0)
    assert torch.equal(torch.rand(3), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 3))
def test_batches_are_full_and_use_every_image_equally_often(num_images, sizes, seed):
    drawn = list(index_batches(num_images, sizes, torch.Generator().manual_seed(seed)))
    assert [len(batch) for batch in drawn] == sizes
    counts = torch.bincount(torch.cat(drawn), minlength=num_images)
    assert counts.max() - counts.min() <= 1


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_zero():
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert factors[9:] == sorted(factors[9:], reverse=True) and max(factors) == 1
    assert 0 < factors[-1] < 1e-3


def ramp(start: int, width: int = 40) -> torch.Tensor:
    """A picture whose columns are numbered by time."""
    return (start + torch.arange(width)).expand(3, 8, width).to(torch.uint8)


def test_a_shift_in_time_shows_what_comes_next_and_wraps_nothing_round():
    images = torch.stack([ramp(0), ramp(10), ramp(20)])
    successors = SuccessorIndex(torch.tensor([1, 2, 2]), torch.tensor([10, 10, 0]))
    shifted = shift_in_time(images, torch.tensor([0, 1, 2] * 20), successors, torch.Generator().manual_seed(0))
    starts = shifted[:, 0, 0, 0].long()
    assert torch.equal(shifted.long(), (starts[:, None] + torch.arange(40))[:, None, None, :].expand(-1, 3, 8, -1))
    assert set(starts[0::3].tolist()) <= set(range(10)) and len(set(starts[0::3].tolist())) > 4
    assert (starts[1::3] >= 10).all() and (starts[1::3] < 20).all() and (starts[2::3] == 20).all()


def test_masks_hide_with_the_background_and_small_parts_only():
    images = torch.zeros(200, 3, 50, 50, dtype=torch.uint8)
    images[:, :, 20:30] = 200
    out = shift_and_mask(images, torch.Generator().manual_seed(0))
    assert set(out.unique().tolist()) == {0, 200}       # the median colour is the background's
    bright = (out == 200)[:, 0].sum(dim=(1, 2)) / 500
    assert bright.max() == 1 and bright.min() > 0.4 and 0.75 < bright.mean() < 0.97
    rows = [(image[0] == 200).any(dim=1).nonzero().min().item() for image in out]
    assert {min(rows), max(rows)} <= set(range(18, 28)) and min(rows) < 20


def test_scores_against_numbers_computed_by_hand():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.8, 0.0], [0.5, 0.2, 0.3]])
    found = score(probabilities, np.array([0, 0, 1, 1]))
    assert found["accuracy"] == 0.5 and found["recalls"] == {0: 0.5, 1: 0.5}
    assert found["macro_f1"] == pytest.approx(0.5) and found["confusion"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    # four bins of one image each: |1 - 0.9|, |0 - 0.6|, |1 - 0.8|, |0 - 0.5|
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.5) / 4)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.2]).mean())


def test_calibration_error_of_a_calibrated_and_of_a_certain_but_wrong_classifier():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    right = rng.uniform(size=len(confidence)) < confidence
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    assert expected_calibration_error(probabilities, np.where(right, 0, 1)) < 0.01
    assert expected_calibration_error(np.array([[1.0, 0.0]] * 5), np.ones(5, dtype=int)) == 1
