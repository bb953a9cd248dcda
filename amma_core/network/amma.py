"""The whole network (figure 2 of the paper)."""

from torch import Tensor, nn

from amma_core.config import NetworkConfig
from amma_core.network.decoder import Decoder
from amma_core.network.fusion import TwoStreamBackbone
from amma_core.network.heads import Head, Maps, shrink
from amma_core.network.micro_motion import MicroMotion, enlarge, normalise


class Amma(nn.Module):
    """Accumulated Micro-Motion Action detector.

        clip of t frames --newest frame--> appearance stages --+--> decoder --> shrink --> FIFO of K --> head
                 \\--micro-motion--> motion stages --blend in--/

    :meth:`forward` is the paper's order of operations, for K clips at once. A stream runs :meth:`encode`
    once per clip and :meth:`head` over the last K results, which gives the same maps.

    Frames are BGR in 0..255, any dtype, already resized to S = ``config.input_size``; they are
    normalised here.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        moving = config.motion != "none"
        self.micro_motion = MicroMotion(config.motion == "conv_diff", config.upsample) if moving else None
        self.backbone = TwoStreamBackbone(config.backbone, config.fusion_stages, config.late_fusion)
        self.decoder = Decoder()
        self.shrink = shrink()
        self.branches = Head(config.clips, config.num_classes)

    def inputs(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, t, 3, S, S) clips -> newest frames and micro-motion, (B, 3, S, S) each, for the streams."""
        motion = None if self.micro_motion is None else self.micro_motion(clips)
        return normalise(clips[:, -1]), motion

    def clip_features(self, clips: Tensor) -> Tensor:
        """(B, t, 3, S, S) clips -> (B, 256, S/16, S/16)."""
        return self.decoder(self.backbone(*self.inputs(clips)))

    def head_from_clip_features(self, features: Tensor) -> Maps:
        """(B, K, 256, S/16, S/16) clip features, oldest first -> Maps, enlarged first as in the paper."""
        fine = enlarge(features.flatten(0, 1), self.config.grid, self.config.upsample)
        return self.branches(self.shrink(fine).unflatten(0, features.shape[:2]))

    def forward(self, clips: Tensor) -> Maps:
        """(B, K, t, 3, S, S) clips, oldest first -> Maps."""
        features = self.clip_features(clips.flatten(0, 1))
        return self.head_from_clip_features(features.unflatten(0, clips.shape[:2]))

    def encode(self, clips: Tensor) -> Tensor:
        """(B, t, 3, S, S) clips -> (B, 64, S/16, S/16), what a stream keeps of each clip (section 3.4).

        Shrinking before enlarging is exact: a 1x1 convolution mixes channels, enlarging mixes cells with
        weights that add up to 1, so the two commute, and a fourth of the work and a sixteenth of
        the memory of the enlarged 256 channels are enough.
        """
        return self.shrink(self.clip_features(clips))

    def head(self, features: Tensor) -> Maps:
        """(B, K, 64, S/16, S/16) encoded clips, oldest first -> Maps."""
        return self.branches(self._fine(features))

    def size(self, features: Tensor) -> Tensor:
        """(B, 64, S/16, S/16) encoded clips -> (B, 2, G, G), what :meth:`head` says of each clip's sizes.

        It depends on no other clip, so a stream can keep it.
        """
        return self.branches.size(enlarge(features, self.config.grid, self.config.upsample))

    def stack(self, features: Tensor) -> Tensor:
        """(B, K, 64, S/16, S/16) encoded clips -> (B, K * 64, G, G), what two of the branches look at."""
        return self._fine(features).flatten(1, 2)

    def _fine(self, features: Tensor) -> Tensor:
        """(B, K, 64, S/16, S/16) -> (B, K, 64, G, G)."""
        fine = enlarge(features.flatten(0, 1), self.config.grid, self.config.upsample)
        return fine.unflatten(0, features.shape[:2])
