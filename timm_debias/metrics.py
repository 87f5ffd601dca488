"""Metrics as pure functions."""


def shape_bias(n_shape: int, n_texture: int) -> float | None:
    """Return the shape bias, a fraction: shape decisions among the decisions for shape or texture.

    Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (ICLR 2019).

    Args:
        n_shape: Conflict images classified as the class of their shape.
        n_texture: Conflict images classified as the class of their texture.

    Returns:
        n_shape / (n_shape + n_texture); None where both are 0.
    """
    decided = n_shape + n_texture
    return n_shape / decided if decided else None
