"""Convolution as one matrix product, for processors.

XLA's native convolution is fast on accelerators. On a processor it is 25 times slower inside
``lax.scan`` and ``lax.while_loop``, which is where training loops and repeated products run.
Windows cut out by slices and one matrix product are as fast there as outside, and differentiable
any number of times in both modes, because they are made of nothing but slices and the product.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from curvlab.core.errors import CurvlabError
from curvlab.core.windows import Padding, explicit_padding, windows


def convolution(lhs: Array, rhs: Array, *args: Any, **kwargs: Any) -> Array:
    """Convolve with the form that is fast on the default backend.

    For the ``conv_general_dilated`` argument of ``flax.linen.Conv``: :func:`matmul_convolution` on
    processors, ``jax.lax.conv_general_dilated`` elsewhere.
    """
    processor = jax.default_backend() == "cpu"
    form = matmul_convolution if processor else lax.conv_general_dilated
    return form(lhs, rhs, *args, **kwargs)


def matmul_convolution(
    lhs: Float[Array, "examples *spatial inputs"],
    rhs: Float[Array, "*size inputs outputs"],
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "examples *places outputs"]:
    """Return ``jax.lax.conv_general_dilated`` of images and kernels with channels last.

    Arguments are those of the original, of which ``window_strides``, ``padding`` (``"SAME"``,
    ``"VALID"`` or pairs) and ``rhs_dilation`` may be anything; whether channels are last is read
    from ``dimension_numbers``.

    Where the stride divides the kernel (as in both strided layers of the Nature network), blocks of
    ``stride`` pixels first become channels: a stride of one and fewer, larger slices remain.

    Raises
    ------
    CurvlabError
        For another layout, dilated images, or groups of features.
    """
    axes = lhs.ndim - 2
    last = (0, axes + 1, *range(1, axes + 1)), (axes + 1, axes, *range(axes))
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if (layout.lhs_spec, layout.rhs_spec, layout.out_spec) != (*last, last[0]):
        raise CurvlabError(
            "matmul_convolution was asked for a layout with channels not last "
            f"({dimension_numbers}). Transpose to N...C and ...IO, or use the native convolution."
        )
    if feature_group_count != 1 or any(step != 1 for step in lhs_dilation or ()):
        raise CurvlabError(
            f"matmul_convolution was asked for {feature_group_count} feature groups and image "
            f"dilation {lhs_dilation}; it has neither. Use jax.lax.conv_general_dilated."
        )
    size, strides = rhs.shape[:axes], tuple(window_strides)
    dilation = tuple(rhs_dilation or (1,) * axes)
    extents = [step * (count - 1) + 1 for step, count in zip(dilation, size, strict=True)]
    pads = explicit_padding(padding, lhs.shape[1:-1], extents, strides)
    if max(strides) > 1 and all(
        k % s == 0 and d == 1 for k, s, d in zip(size, strides, dilation, strict=True)
    ):
        lhs, rhs = _blocks_to_channels(lhs, rhs, strides, pads)
        size, strides, pads = rhs.shape[:axes], (1,) * axes, [(0, 0)] * axes
    cut = windows(lhs, size, strides=strides, padding=pads, dilation=dilation)
    return jnp.matmul(cut, rhs.reshape(-1, rhs.shape[-1]), precision=precision)


def _blocks_to_channels(
    images: Array, kernel: Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> tuple[Array, Array]:
    """Return images and kernel of the equal convolution with stride one on blocks of pixels."""
    axes = len(strides)
    counts = [k // s for k, s in zip(kernel.shape[:axes], strides, strict=True)]
    config = [(0, 0, 0)]
    blocks: list[int] = []
    for length, (before, after), stride, count in zip(
        images.shape[1:-1], pads, strides, counts, strict=True
    ):
        number = (length + before + after) // stride  # pixels beyond the last window are cut off
        config.append((before, number * stride - length - before, 0))
        blocks.append(number)
        assert number >= count
    images = lax.pad(images, jnp.zeros((), images.dtype), [*config, (0, 0, 0)])

    def fold(array: Array, lead: Sequence[int], numbers: Sequence[int], tail: int) -> Array:
        """Move the pixels inside each block behind the block's own axes."""
        pairs = [side for pair in zip(numbers, strides, strict=True) for side in pair]
        split = array.reshape(*lead, *pairs, *array.shape[-tail:])
        outer = [len(lead) + 2 * axis for axis in range(axes)]
        order = [*range(len(lead)), *outer, *(axis + 1 for axis in outer)]
        return split.transpose(*order, *range(len(order), split.ndim))

    folded = fold(images, images.shape[:1], blocks, 1)
    return (
        folded.reshape(*folded.shape[: 1 + axes], -1),
        fold(kernel, (), counts, 2).reshape(*counts, -1, kernel.shape[-1]),
    )
