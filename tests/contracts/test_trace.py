"""Every ``update`` can be traced as one graph, gradients and optimizer steps included."""

from __future__ import annotations

import pytest
import torch

from .pages import batch_for, distance, episodes_for, every_algorithm, small
from .test_loop import constant


def plain_descent(page):
    """`minimize` as a traceable function: ``autograd.grad`` and a step on the tensors themselves."""

    def minimize(**losses):
        for name, loss in losses.items():
            parameters = page._parameters_of(name)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g in zip(parameters, gradients, strict=True):
                    p.sub_(1e-2 * g)

    return minimize


@every_algorithm
def test_update_is_one_graph(algorithm):
    """No .item(), no branch on a tensor: the whole update compiles with fullgraph=True and does what it did before."""
    try:
        tracing = torch._dynamo.config.patch(trace_autograd_ops=True)
    except Exception:
        pytest.skip("this torch cannot trace autograd.grad")
    pages = [algorithm(episodes_for(algorithm).spec, **small(algorithm), **constant(algorithm)) for _ in range(2)]
    for page in pages:
        page.configure_optimizers()
        page.minimize = plain_descent(page)
        page.draws.normal = lambda shape, like, batch_dim=-2: torch.zeros(tuple(shape), dtype=like.dtype)
        page.draws.uniform = lambda shape, like, batch_dim=-2: torch.full(tuple(shape), 0.25, dtype=like.dtype)
        page.updates = 1  # the update in which delayed policies are due
    batch = batch_for(pages[0])
    with tracing:
        got = torch.compile(pages[0].losses_of, fullgraph=True, backend="eager")(batch)
    want = pages[1].losses_of(batch)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name])
    assert distance(pages[0].state_dict(), pages[1].state_dict()) < 1e-6
    torch._dynamo.reset()
