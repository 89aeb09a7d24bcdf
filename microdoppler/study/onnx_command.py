"""Write a classifier that classify.py --save_models kept as an ONNX file, which other programs can run.

    python -m microdoppler.to_onnx --model results/classify/models/real+classical.safetensors
"""
import contextlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from groundwork.errors import InputError
from groundwork.files import atomic_path, to_json
from groundwork.limits import checks_arguments
from microdoppler.study.classifier import normalise
from microdoppler.study.trained_classifier import TrainedClassifier

class FromPixels(nn.Module):
    """A classifier with the images as other programs have them, and probabilities: all but reading the file."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(n, size, size, channels) uint8 → probabilities (n, classes) float32."""
        return self.model(normalise(images.permute(0, 3, 1, 2), images.device)).softmax(dim=1)


@checks_arguments
def main(model: Path, *, output: Path | None = None) -> Path:
    """Write a classifier as an ONNX file. Returns its path.

    Args:
        model: a file that classify.py --save_models wrote
        output: the file to write; default: beside the model, with the suffix .onnx
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"writing ONNX needs two packages that cannot be imported ({error}); pip install onnx "
                         "onnxscript") from None
    classifier = TrainedClassifier.load(model)
    output = output or model.with_suffix(".onnx")
    write_onnx(classifier, output)
    size, channels = classifier.network.image_size, classifier.classes.channels
    print(f"written: {output}\n"
          f"input: images (batch, {size}, {size}, {channels}) uint8, {'RGB' if channels == 3 else 'grey'}; output: "
          f"probabilities (batch, {len(classifier.classes.folders)}) float32, in the order of the metadata's folders")
    return output


def write_onnx(classifier: TrainedClassifier, path: Path) -> None:
    """Write a classifier as an ONNX file with a dynamic batch.

    Input: images (batch, size, size, channels) uint8, RGB or grey, as PIL and OpenCV hold them (OpenCV: BGR to RGB
    first). Output: probabilities (batch, classes) float32. Metadata, as JSON: folders and names of the classes, how
    files become images (preparation), network and facts.
    """
    size, channels = classifier.network.image_size, classifier.classes.channels
    example = torch.zeros(2, size, size, channels, dtype=torch.uint8)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():     # the exporter tells its own steps
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            FromPixels(classifier.model).eval(), (example,), dynamo=True, input_names=["images"],
            output_names=["probabilities"], dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            external_data=False, verbose=False)
    assert program is not None
    classes = classifier.classes
    program.model.metadata_props.update({
        "folders": to_json(classes.folders), "names": to_json(classes.names), "network": str(classifier.network),
        "preparation": to_json(classes.preparation.to_json()), "facts": to_json(classifier.facts)})
    with atomic_path(path) as temporary:
        program.save(temporary)
