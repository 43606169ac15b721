"""Products as graphs hold them: against numpy in float64, in every shape that is treated on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lightning_offrl.training.compile.decompositions import biased_product, decompositions

SHAPES = [(5, 4, 3), (5, 1, 3), (5, 4, 1), (1, 4, 3), (1, 4, 1), (1, 1, 1)]
"""Rows, inner dimension, columns."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_biases_are_numpys(shape, lead, dtype):
    """Also with transposed factors; each result within two roundings of its type."""
    rows, inner, columns = shape
    torch.manual_seed(0)
    one, bias = torch.randn(*lead, rows, inner, dtype=dtype), torch.randn(*lead, 1, columns, dtype=dtype)
    other = torch.randn(*lead, columns, inner, dtype=dtype).mT
    if not lead:
        bias = bias[0]
    table = decompositions(torch.device("cpu"))
    plain, biased = (torch.bmm, torch.baddbmm) if lead else (torch.mm, torch.addmm)
    graph = make_fx(lambda a, b, c: (plain(a, b), biased(c, a, b)), table)(one, other, bias)
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not {"aten.addmm.default", "aten.baddbmm.default"} & names
    assert bool({"aten.mm.default", "aten.bmm.default"} & names) == (1 not in shape)
    exact = np.matmul(one.double().numpy(), other.double().numpy())
    for got, want in zip(graph(one, other, bias), (exact, exact + bias.double().numpy()), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.double().numpy(), want, rtol=0, atol=2 * torch.finfo(dtype).eps * 8)


def test_other_devices_and_scaled_sums_keep_their_library_call():
    assert decompositions(torch.device("cuda")) == {}
    one = torch.ones(2, 2)
    assert biased_product(one, one, one, alpha=2) is NotImplemented
