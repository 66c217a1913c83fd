"""Labels that need no labeller: k-means clusters of spectral features or of an encoder's layer."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.objective import Pool
from auscult.progress import logger
from auscult.upstream import Upstream

_BATCH = 10_000  # fairseq, examples/hubert/simple_kmeans/learn_kmeans.py, as the rest of the call


@dataclass(frozen=True, slots=True)
class Labelled:
    """A frozen encoder one of whose layers is clustered, read where another's frames lie."""

    upstream: Upstream
    layer: int
    geometry: FrameGeometry  # of the frames that labels are for

    def __post_init__(self) -> None:
        spec = self.upstream.spec
        if not 0 <= self.layer <= spec.num_layers:
            raise UserError(
                f"layer={self.layer}: {spec.name} has hidden states 0 to {spec.num_layers}."
            )

    def features(self, audio: Waveforms, frames: Tensor) -> Tensor:
        """Return the layer at the frame whose centre is nearest to each of ``geometry``'s.

        Args:
            audio: The batch.
            frames: (batch,) frames wanted.

        Returns:
            (batch, frame, dim); values after a row's frames mean nothing.
        """
        self.upstream.to(audio.samples.device)
        with torch.no_grad(), torch.autocast(audio.samples.device.type, enabled=False):
            states = self.upstream(audio)
        layer, own = states.layers[self.layer], self.upstream.spec.geometry
        centres = self.geometry.centres(int(frames.max()))
        nearest = np.rint((centres - own.centres(1)[0]) / own.stride).astype(np.int64)
        index = torch.from_numpy(nearest).to(layer.device).clamp(min=0)
        last = states.lengths.to(layer.device)[:, None] - 1
        index = torch.minimum(index[None], last)  # (batch, frame)
        read: Tensor = layer.gather(1, index[..., None].expand(-1, -1, layer.shape[2]))
        return read

    def collect(self, pool: Pool, seconds: float, seed: int) -> Tensor:
        """Return the features of about ``seconds`` of audio, (frame, dim)."""
        rows: list[Tensor] = []
        for audio in pool.sample(seconds, seed):
            counts = [self.geometry.unpadded_frames(length) for length in audio.lengths.tolist()]
            features = self.features(audio, torch.tensor(counts, device=audio.lengths.device))
            rows += [row[:count] for row, count in zip(features, counts, strict=True)]
        return torch.cat(rows)


class Clusters(nn.Module):
    """Cluster centres, which a checkpoint keeps, and how often each was nearest when fitted.

    Args:
        clusters: Their number.
        dim: Width of what is clustered.
    """

    centres: Tensor  # (label, dim)
    frequencies: Tensor  # (label,), adding up to one

    def __init__(self, clusters: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(clusters, dim))
        self.register_buffer("frequencies", torch.zeros(clusters))

    def fit(self, features: Tensor, seed: int) -> None:
        """Fit k-means to ``features`` (frame, dim) and say what came of it.

        Raises:
            UserError: Fewer frames than clusters.
        """
        from sklearn.cluster import MiniBatchKMeans

        clusters = len(self.centres)
        if len(features) < clusters:
            raise UserError(
                f"clusters={clusters}: there are only {len(features)} frames to cluster; pretrain "
                "on more audio, raise fit_seconds or lower clusters."
            )
        kmeans = MiniBatchKMeans(
            clusters,
            init="k-means++",
            max_iter=100,
            batch_size=_BATCH,
            tol=0.0,
            max_no_improvement=100,
            n_init=20,  # pyright: ignore[reportArgumentType]
            reassignment_ratio=0.0,
            compute_labels=False,
            random_state=seed,
        )
        kmeans.fit(features.double().cpu().numpy())
        self.centres.copy_(torch.from_numpy(kmeans.cluster_centers_))
        counts = torch.bincount(self.assign(features), minlength=clusters).float()
        self.frequencies.copy_(counts / counts.sum())
        entropy = torch.special.entr(self.frequencies).sum()
        logger.info(
            f"{int((counts > 0).sum())} of {clusters} clusters are in use among {len(features)} "
            f"frames, with an entropy of {float(entropy):.2f} nats."
        )

    def assign(self, features: Tensor) -> Tensor:
        """Return the nearest centre's number (frame,) for ``features`` (frame, dim)."""
        with torch.autocast(features.device.type, enabled=False):
            products = features.float() @ self.centres.T
            return (self.centres.square().sum(-1) - 2 * products).argmin(-1)
