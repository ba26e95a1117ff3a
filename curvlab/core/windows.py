"""Windows of images: what a convolution multiplies its kernel with.

A convolution is a matrix product of windows with the kernel. The windows are cut out with few large
slices, not gathered one by one.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = str | Sequence[tuple[int, int]]


def explicit_padding(
    padding: Padding, lengths: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the pixels to add before and after each axis (fewer than none: to cut off)."""
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(lengths, extents, strides, padding)
    else:
        pads = padding
    return [(int(before), int(after)) for before, after in pads]


def windows(
    images: Float[Array, "examples *spatial channels"],
    size: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Padding = "VALID",
    dilation: Sequence[int] | None = None,
) -> Float[Array, "examples *places window_channels"]:
    """Return the window at each place, flattened in the order (offset, ..., channel).

    Cost: one copy of the result, ``prod(size)`` slices.

    Parameters
    ----------
    images
        Images with their channels last.
    size
        Extent of the window along each spatial axis.
    strides
        Distance between windows along each spatial axis.
    padding
        ``"SAME"``, ``"VALID"`` or a pair (before, after) for each spatial axis.
    dilation
        Distance between the pixels of one window; 1 if absent.
    """
    axes = len(size)
    steps = tuple(dilation or (1,) * axes)
    extents = [step * (count - 1) + 1 for step, count in zip(steps, size, strict=True)]
    pads = explicit_padding(padding, images.shape[1:-1], extents, strides)
    if any(pad != (0, 0) for pad in pads):
        zero = jnp.zeros((), images.dtype)
        images = lax.pad(images, zero, [(0, 0, 0), *((a, b, 0) for a, b in pads), (0, 0, 0)])
    places = [
        (length - extent) // stride + 1
        for length, extent, stride in zip(images.shape[1:-1], extents, strides, strict=True)
    ]
    pieces: list[Array] = []
    for offset in itertools.product(*map(range, size)):
        start = [step * index for step, index in zip(steps, offset, strict=True)]
        stop = [
            first + stride * (count - 1) + 1
            for first, stride, count in zip(start, strides, places, strict=True)
        ]
        pieces.append(
            lax.slice(
                images,
                (0, *start, 0),
                (images.shape[0], *stop, images.shape[-1]),
                (1, *strides, 1),
            )
        )
    return jnp.concatenate(pieces, axis=-1)
