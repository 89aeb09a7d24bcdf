"""The classifier is any of torchvision's classification networks: it fits the images, or is refused in words."""
import re

import pytest
import torch
import torchvision
from toys import toy_set
from torch import nn

from groundwork.errors import InputError
from microdoppler.study.arms import Arm
from microdoppler.study.classifier import build_classifier, features, predict, train_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.evaluation_classifier import load_or_train_evaluation_classifier
from microdoppler.study.networks import output_layer, plan_network
from microdoppler.study.recipe import Recipe

CPU = torch.device("cpu")
# The smallest of each family, with the changes at its stem for images of 32 px
STEMS = {
    "alexnet": "features.0 with stride 1", "convnext_tiny": "features.0.0 with stride 1",
    "densenet121": "features.conv0 with stride 1", "efficientnet_b0": "features.0.0 with stride 1",
    "efficientnet_v2_s": "features.0.0 with stride 1", "googlenet": "conv1.conv with stride 1",
    "inception_v3": "Conv2d_1a_3x3.conv with stride 1, without maxpool1", "mnasnet0_5": "layers.0 with stride 1",
    "mobilenet_v2": "features.0.0 with stride 1", "mobilenet_v3_small": "features.0.0 with stride 1",
    "regnet_x_400mf": "stem.0 with stride 1", "regnet_y_400mf": "stem.0 with stride 1",
    "resnet18": "conv1 with stride 1", "resnext50_32x4d": "conv1 with stride 1",
    "shufflenet_v2_x0_5": "conv1.0 with stride 1", "squeezenet1_1": "features.0 with stride 1",
    "swin_t": "features.0.0 with stride 2", "swin_v2_t": "features.0.0 with stride 2", "vgg11": "without features.2",
    "vgg11_bn": "without features.3", "vit_b_16": "", "wide_resnet50_2": "conv1 with stride 1"}


@pytest.mark.parametrize("name", STEMS)
def test_a_network_of_each_family_takes_small_images_and_says_what_was_changed(name):
    assert str(plan_network(name, 32)) == name + (f" (stem adapted to 32 px: {STEMS[name]})" if STEMS[name] else "")


def test_every_family_is_tested():
    def family(name):
        return re.match(r"(efficientnet_v2|mobilenet_v\d|regnet_[xy]|swin_v2|wide_resnet|[a-z]+)", name)[1]
    tested = {*map(family, STEMS), "maxvit"}
    assert {family(name) for name in torchvision.models.list_models(module=torchvision.models)} == tested


@pytest.mark.parametrize("name, size, reason", [
    ("resnt18", 64, "classifier is resnt18; expected one of torchvision's classification models, such as resnet18"),
    ("ResNet50", 64, "such as resnet50"), ("yolo", 64, "such as "), ("fcn_resnet50", 64, "such as resnet50"),
    ("maxvit_t", 128, "a multiple of 224 px, but classifier_image_size is 128; set it to 224, or choose"),
    ("maxvit_t", 256, "set it to 224 or 448"),
    ("vit_h_14", 256, "a multiple of 14 px, but classifier_image_size is 256; set it to 252 or 266, or choose"),
    ("vit_b_32", 32, "cannot take images of 32 px (its last feature map would have a single pixel)")])
def test_what_cannot_be_trained_is_refused_with_the_reason(name, size, reason):
    with pytest.raises(InputError, match=re.escape(reason)):
        plan_network(name, size)


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("resnet18", 256), ("vit_h_14", 56), ("maxvit_t", 224)])
def test_a_network_that_fits_is_torchvisions_own(name, size):
    assert plan_network(name, size).stem == ()


SMALL = ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "regnet_y_400mf", "mnasnet0_5"]


@pytest.mark.parametrize("name", SMALL)
def test_each_trains_on_one_image_and_its_features_are_what_its_output_layer_sees(name):
    """On one image, since the last part of a batch that did not fit in memory may have only one."""
    network, data = plan_network(name, 32), toy_set(2, seed=0)
    model = train_classifier(iter([(data.images[:1], data.labels[:1])]), network=network, num_classes=2, num_steps=1,
                             lr=1e-3, seed=0, device=CPU)
    found, last = features(model, data.images, batch_size=3), output_layer(model)
    assert found.isfinite().all() and found.shape == (4, last.weight.shape[1])
    logits = found @ last.weight.detach().flatten(1).T + (0 if last.bias is None else last.bias.detach())
    if isinstance(last, nn.Linear):
        torch.testing.assert_close(logits.softmax(1), predict(model, data.images), atol=1e-4, rtol=1e-4)


def test_what_dropout_hides_follows_from_the_seed_and_leaves_the_global_random_state():
    data, results = toy_set(4, seed=0), []
    for seed in (3, 3):
        torch.manual_seed(len(results))
        expected = torch.rand(1)
        torch.manual_seed(len(results))
        batches = Arm(KINDS["real only"], data).batches(Recipe(epochs=1, batch_size=4, lr=1e-3), 2, seed)
        model = train_classifier(batches, network=plan_network("mobilenet_v3_small", 32),
                                 num_classes=2, num_steps=2, lr=1e-3, seed=seed, device=CPU)
        results.append(predict(model, data.images))
        assert torch.equal(torch.rand(1), expected)
    assert torch.equal(*results)


def test_an_adapted_network_has_the_weights_of_torchvisions():
    own, usual = build_classifier(plan_network("resnet18", 32), 2, seed=0), torchvision.models.resnet18(num_classes=2)
    usual.load_state_dict(own.state_dict())
    assert own.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_the_evaluation_classifier_is_stored_under_its_network(tmp_path, monkeypatch):
    trained = []

    def untrained(*_, network, num_classes, seed, **__):
        trained.append(network.name)
        return build_classifier(network, num_classes, seed)
    monkeypatch.setattr("microdoppler.study.evaluation_classifier.train_classifier", untrained)
    for name in ("squeezenet1_1", "mobilenet_v3_small", "squeezenet1_1", "mobilenet_v3_small"):
        model = load_or_train_evaluation_classifier(toy_set(2, seed=0), network=plan_network(name, 32), num_classes=2,
                                                    folder=tmp_path, device=CPU)
        assert type(model).__name__.lower() in name.replace("_", "")
    assert trained == ["squeezenet1_1", "mobilenet_v3_small"] and len(list(tmp_path.iterdir())) == 2
