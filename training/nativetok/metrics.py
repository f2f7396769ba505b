"""Metrics of reconstructions and tokens: PSNR, SSIM, Fréchet distance, entropy, codebook use."""

import numpy as np
from skimage.metrics import structural_similarity


def psnr(reference: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image on uint8 RGB.

    Args:
        reference: uint8 [N,H,W,3].
        images: uint8 [N,H,W,3].

    Returns:
        float64 [N] in dB; infinite if an image equals its reference.
    """
    _check_pair(reference, images)
    error = reference.astype(np.float64) - images
    mse = np.square(error).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / mse)


def ssim(reference: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Structural similarity of each image: scikit-image's, with Gaussian weights of sigma 1.5, mean over RGB.

    Args:
        reference: uint8 [N,H,W,3], H and W at least 11.
        images: uint8 [N,H,W,3].

    Returns:
        float64 [N] in -1..1.
    """
    _check_pair(reference, images)
    return np.array(
        [
            structural_similarity(
                before,
                after,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
                channel_axis=-1,
            )
            for before, after in zip(reference, images, strict=True)
        ],
        dtype=np.float64,
    )


def frechet_distance(reference: np.ndarray, other: np.ndarray) -> float:
    """Fréchet distance between two sets of features, modelled as Gaussians (Heusel et al. 2017, arXiv 1706.08500).

    It is an FID only on features of the Inception network; on other features it is comparable only with itself. It is
    biased upwards, more so the fewer samples there are relative to F: even two halves of one set are some distance
    apart. So compare figures only for equal N; unless N is well above F they mean little.

    Args:
        reference: floats [N,F], N at least 2.
        other: floats [M,F], M at least 2.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        ValueError: if the arrays are not 2-D, differ in F or have fewer than two rows.
    """
    if reference.ndim != 2 or other.ndim != 2 or reference.shape[1] != other.shape[1]:
        raise ValueError(f"need two 2-D arrays with the same number of features, not {reference.shape}, {other.shape}")
    if min(len(reference), len(other)) < 2:
        raise ValueError(f"need at least two samples each for a covariance, not {len(reference)} and {len(other)}")
    (mean, factor), (other_mean, other_factor) = _gaussian(reference), _gaussian(other)
    # tr (S T)^(1/2) is the sum of the singular values of A B^T where S = A^T A and T = B^T B. This avoids a matrix
    # square root, which is inexact for singular covariances (fewer samples than features).
    cross = np.linalg.svd(factor @ other_factor.T, compute_uv=False).sum()
    spread = np.square(factor).sum() + np.square(other_factor).sum() - 2 * cross
    return float(max(np.square(mean - other_mean).sum() + spread, 0.0))


def position_entropy(tokens: np.ndarray) -> np.ndarray:
    """Empirical entropy of the ids at each position.

    The estimate is at most log2(N): with 1,000 images, no position can have more than 9.97 bits.

    Args:
        tokens: integers [N,L], N at least 1.

    Returns:
        float64 [L] in bits.
    """
    return np.array([_entropy(column) for column in tokens.T], dtype=np.float64)


def codebook_use(tokens: np.ndarray, size: int) -> float:
    """Share of the codebook entries that occur at least once.

    Args:
        tokens: integers of any shape, ids of 0..size-1.
        size: entries in the codebook.

    Returns:
        0..1.
    """
    return len(np.unique(tokens)) / size


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean float64 [F] of features [N,F] and a factor A [min(N,F),F] of their covariance A^T A."""
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    factor: np.ndarray = np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")  # type: ignore[assignment]
    return mean, factor


def _entropy(ids: np.ndarray) -> float:
    _, counts = np.unique(ids, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + 0.0)  # + 0.0 turns -0.0 into 0.0


def _check_pair(reference: np.ndarray, images: np.ndarray) -> None:
    if reference.shape != images.shape or reference.dtype != np.uint8 or images.dtype != np.uint8:
        raise ValueError(
            f"need two uint8 arrays of the same shape, not {reference.dtype} {reference.shape} "
            f"and {images.dtype} {images.shape}"
        )


def share_by_position(tokens: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the share of sequences that have the same token at each position.

    Args:
        tokens: integers [N,L].
        others: integers [N,L], of the same images in the same order.

    Returns:
        float64 [L] in 0..1.
    """
    share: np.ndarray = (tokens == others).mean(axis=0)
    return share
