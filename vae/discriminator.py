"""The patch discriminator, which tells real images from reconstructions patch by patch (Isola et al. 2017,
arXiv:1611.07004, section 3.2.2), as the first stage of latent diffusion has one."""
import torch.nn.functional as F
from torch import Tensor, nn

MOST_WIDTH = 64         # channels of the first layer, as in PatchGAN
SLOPE = 0.2             # of the leaky ReLU below 0


class PatchDiscriminator(nn.Module):
    """Scores of overlapping patches of 40 x 40 pixels: above 0 for those that look real.

    The first layer keeps the images' resolution, at which speckle and grids show. There is no normalisation: batches
    are small, and a norm over an image would hide how bright it is.

    channels: of the images, 3 or 1; width: channels of the first layer.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.layers = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])
        self.layers.extend(nn.Conv2d(before, after, 4, stride=2, padding=1)
                           for before, after in zip(widths, widths[1:]))
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for layer in (*self.layers, self.score):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (b, channels, height, width) in [0, 1] → scores (b, 1, height / 8, width / 8), and the features of
        each layer, (b, …)."""
        h, features = 2 * images - 1, []
        for layer in self.layers:
            h = F.leaky_relu(layer(h), SLOPE)
            features.append(h)
        return self.score(h), features


def as_written(images: Tensor) -> Tensor:
    """Images as they are in files: clamped to [0, 1] and rounded to steps of 1/255. The gradient passes through the
    rounding. A discriminator that saw other values could tell real images by their steps alone."""
    clamped = images.clamp(0, 1)
    return clamped + ((255 * clamped).round() / 255 - clamped).detach()
