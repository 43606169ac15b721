"""What a dataset report cannot tell, and how everything on it was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_offrl.reports import html
from lightning_offrl.reports.dataset.stitching import COUNTED
from lightning_offrl.reports.html import Markup

if TYPE_CHECKING:
    from lightning_offrl.reports.dataset.measure import DatasetMeasures


def limits(seen: DatasetMeasures) -> Markup:
    """What no measure of the data can show."""
    lines = [
        "Whether the observation holds all that matters. If whoever acted saw more than was logged, the actions look "
        "random here and what they caused is confounded: no measure on this page would notice.",
        "Whether the reward is what you want. It is taken at its word.",
        "Whether the world will be as it was. Drift inside the data is measured; after its end nothing is known.",
        "How well an algorithm will do. Advice is by the kind of data, from published comparisons on simulated robots; "
        "train, and evaluate with error bars.",
        "Rare events. What happened in fewer than a handful of episodes is invisible in means and maps.",
    ]
    if seen.policies.number == 1:
        lines.append(
            "Policies that made few of the steps, or that differ by less than about half of the noise of their "
            "actions: they count as one."
        )
    if len(seen.links.episodes) < len(seen.episodes):
        lines.append(
            f"Meetings of episodes outside of the sample: overlap and stitching rest on "
            f"{len(seen.links.episodes):,} of "
            f"{len(seen.episodes):,} steps, so with all of them both would be larger."
        )
    return Markup('<ul class="plain">' + "".join(f"<li>{html.text(line)}</li>" for line in lines) + "</ul>")


def definitions(seen: DatasetMeasures) -> Markup:
    """Every measure of the page in a sentence or two."""
    discount = f"{seen.discount:g}"
    terms = {
        "±": "One standard error over episodes (standard deviation over the square root of their number).",
        "Effective number of policies": "exp(H(w)) for the shares w of a mixture of K policies to which whole episodes "
        "belong; K maximizes the held-out log-likelihood per decision less "
        f"{seen.policies.price:g} nats for each further policy. Gains for K = 1, 2, ...: "
        + ", ".join(f"{gain:.3f}" for gain in seen.policies.gain)
        + f" nats, on {seen.policies.steps:,} steps.",
        "Variety of actions": "Standard deviation of the actions given the state over that of uniformly random "
        "ones, by "
        "the Gamma test (Evans and Jones 2002): differences between the actions in neighboring states of different "
        "episodes, extrapolated to distance 0. Discrete: the probability that two actions in the same state differ.",
        "Same state": f"Closer than half the median distance between consecutive states ({seen.links.step:.3g} "
        f"standard "
        "deviations), after dividing each number by its standard deviation; where states repeat exactly, equal.",
        "Stitching potential": "V_m(t) = r_t + g max(V_m(t+1), V_(m-1) of the linked states of other episodes), so "
        "V_m is "
        f"the best discounted return (g = {discount}) with at most m changes of episode; potential is V_{COUNTED} less "
        "the best single episode, at the logged starts. A cut episode is taken to go on as in its last "
        f"{round(1 / (1 - seen.discount))} steps.",
        "Map": "Principal axes of the standardized observations"
        + (
            ", which here say nothing of nearness: instead, of the discounted counts of the states that follow each "
            "state "
            "(successor representation of the steps in the data, both ways, discount 0.95)."
            if seen.states.by_successors
            else "."
        ),
        "Size of the values": f"Mean absolute reward over 1 - {discount}.",
        "Drift": "Means of the first and the last third of the episodes, each episode counting once.",
        "Leak": "Expected share of a random validation tenth whose exact copy is in the training part.",
    }
    surprise = seen.links.surprise
    if surprise is not None:
        terms["Luck"] = (
            "Median distance between what follows the same action in the same state, in typical steps: "
            f"{surprise:.2f} here ({seen.links.surprise_pairs:,} pairs). Half a step or less is what the tolerance of "
            "“same” alone makes."
        )
    rows = "".join(f"<dt>{html.text(name)}</dt><dd>{html.text(text)}</dd>" for name, text in terms.items())
    return Markup(f'<dl class="defined">{rows}</dl>')
