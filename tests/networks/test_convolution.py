"""The convolution as a matrix product equals XLA's, with all derivatives, inside loops as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from curvlab.core.errors import CurvlabError
from curvlab.networks import matmul_convolution

LAST = ("NHWC", "HWIO", "NHWC")
AXIS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2))


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def derivatives(convolve, images, kernel, directions):
    """Return value, gradient and Hessian product of a function that bends in both arguments."""

    def loss(point):
        return jnp.sum(jnp.tanh(convolve(*point)))

    def all_of(point, direction):
        value = convolve(*point)
        return value, *jax.jvp(jax.grad(loss), (point,), (direction,))

    return jax.jit(all_of)((images, kernel), directions)


def assert_equal(shape, size, strides, padding, dilation=None, seed=0):
    images, kernel, *directions = draw(seed, shape, (*size, shape[-1], 3), shape, (*size, 2, 3))
    found, expected = (
        derivatives(
            lambda x, w, form=form: form(
                x, w, strides, padding, rhs_dilation=dilation, dimension_numbers=LAST
            ),
            images,
            kernel,
            tuple(directions),
        )
        for form in (matmul_convolution, lax.conv_general_dilated)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12, rtol=1e-11), found, expected
    )


@settings(max_examples=8)
@given(AXIS, AXIS, st.integers(0, 99))
def test_equals_the_native_convolution_in_value_gradient_and_hessian_product(rows, columns, seed):
    (size_r, stride_r, *pad_r), (size_c, stride_c, *pad_c) = rows, columns
    with jax.enable_x64(True):
        assert_equal(
            (2, 7, 6, 2),
            (size_r, size_c),
            (stride_r, stride_c),
            [tuple(pad_r), tuple(pad_c)],
            seed=seed,
        )


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(-1, 0), (0, -2)]])
@pytest.mark.parametrize(("size", "stride"), [((4, 4), 2), ((3, 2), 2), ((2, 6), 2)])
def test_named_and_negative_padding(x64, padding, size, stride):
    assert_equal((2, 9, 10, 2), size, (stride, stride), padding)


def test_dilated_kernels(x64):
    assert_equal((2, 9, 9, 2), (3, 2), (2, 1), "SAME", dilation=(2, 3))


def test_one_spatial_axis(x64):
    images, kernel = draw(0, (3, 12, 2), (4, 2, 5))
    layout = ("NWC", "WIO", "NWC")
    expected = lax.conv_general_dilated(images, kernel, (2,), "SAME", dimension_numbers=layout)
    found = matmul_convolution(images, kernel, (2,), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dimension_numbers": ("NCHW", "OIHW", "NCHW")}, "channels not last"),
        ({}, "channels not last"),
        ({"dimension_numbers": LAST, "feature_group_count": 2}, "2 feature groups"),
        ({"dimension_numbers": LAST, "lhs_dilation": (2, 2)}, "image dilation"),
    ],
)
def test_what_it_does_not_do_is_refused(settings, reason):
    with pytest.raises(CurvlabError, match=reason):
        matmul_convolution(
            jnp.ones((1, 4, 4, 4)), jnp.ones((2, 2, 4, 4)), (1, 1), "SAME", **settings
        )
