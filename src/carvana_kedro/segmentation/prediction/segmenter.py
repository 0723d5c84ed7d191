"""A network that only predicts, with what it needs around it: what runs anywhere, and is exported."""

import copy

from torch import Tensor, nn

from carvana_kedro.segmentation.architectures import SegmentationNetwork
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.prediction.fuse import fuse_batch_norm


class Segmenter(nn.Module):
    """Fitted pictures in, logits out: the range of the colors and the mirrored margin are inside.

    Logits, not probabilities: enlarged to the photograph's size, they keep the edge between the network's pixels.

    Attributes:
        network: in evaluation, without gradients, its BatchNorm folded.
        geometry: of the network at its input size.

    >>> import torch
    >>> from carvana_kedro.segmentation.architectures import build_network
    >>> network = build_network("unet_small")
    >>> segmenter = Segmenter(network, Geometry.of(network, (64, 96)))
    >>> segmenter(torch.zeros(2, 64, 96, 3, dtype=torch.uint8)).shape
    torch.Size([2, 64, 96])
    """

    def __init__(self, network: SegmentationNetwork, geometry: Geometry) -> None:
        """Copy the network."""
        super().__init__()
        fused = fuse_batch_norm(network) if network.has_fusible_batch_norm else copy.deepcopy(network)
        self.network = fused.requires_grad_(False)
        self.geometry = geometry
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits: (N, h, w, 3) uint8 at the geometry's output size to (N, h, w) float32."""
        # (N, h, w, 3) seen as (N, 3, h, w) is what channels_last means: no copy.
        scaled = images.permute(0, 3, 1, 2).float() / 255
        logits: Tensor = self.network(self.geometry.pad(scaled))
        return logits.float()
