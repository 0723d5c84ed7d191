"""A network for prediction, including the scaling and padding of images. It is also what is exported."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.model import require_finite
from carvana_kedro.segmentation.prediction.fuse import fuse_batch_norm


class Segmenter(nn.Module):
    """Computes logits from uint8 images at the output size. It scales the colors and pads the images itself.

    It returns logits, not probabilities: logits that are enlarged to the image's size keep the subpixel position of
    the mask's edge.

    Attributes:
        network: The network in evaluation mode, without gradients. Its BatchNorm is fused into the convolutions if its
            class declares `has_fusible_batch_norm`.
        geometry: Geometry of the network at its input size.
        needs_autocast: Whether the network needs autocast if its weights are not float32.

    >>> import torch
    >>> from carvana_kedro.segmentation.architectures import build_network
    >>> network = build_network("unet_small")
    >>> segmenter = Segmenter(network, Geometry.of(network, (64, 96)))
    >>> segmenter(torch.zeros(2, 64, 96, 3, dtype=torch.uint8)).shape
    torch.Size([2, 64, 96])
    """

    def __init__(self, network: SegmentationNetwork, geometry: Geometry) -> None:
        """Copy the network.

        Raises:
            UserError: Its weights are not finite.
        """
        super().__init__()
        require_finite(network.state_dict(), f"The network {type(network).__name__}")
        # Declared by the class itself: what holds for a network need not hold for a class derived from it.
        declared = vars(type(network))
        fusible = declared.get("has_fusible_batch_norm", False)
        self.needs_autocast: bool = not declared.get("computes_in_dtype_of_weights", False)
        fused = fuse_batch_norm(network) if fusible else copy.deepcopy(network)
        self.network = fused.requires_grad_(False)
        self.geometry = geometry
        self.eval()

    def convert_weights(self, dtype: torch.dtype) -> None:
        """Convert the weights in place. BatchNorm and buffers, such as ImageNet's mean, stay in float32."""
        for module in self.network.modules():
            if not isinstance(module, _NormBase):  # torch has no BatchNorm with statistics of another dtype
                for weight in module.parameters(recurse=False):
                    if weight.is_floating_point():
                        weight.data = weight.data.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Compute (N, h, w) float32 logits from (N, h, w, 3) uint8 images at the geometry's output size.

        Raises:
            ValueError: The images have another dtype or shape.
        """
        expected = (*self.geometry.output_size, 3)
        if images.dtype != torch.uint8 or images.shape[1:] != expected:
            raise ValueError(
                f"The images must be (N, {', '.join(map(str, expected))}) uint8 in 0..255, not {images.dtype} of shape "
                f"{tuple(images.shape)}."
            )
        # A permuted (N, h, w, 3) tensor already has the channels_last layout: no copy.
        scaled = images.permute(0, 3, 1, 2).float() / 255
        logits: Tensor = self.network(self.geometry.pad(scaled))
        return logits.float()
