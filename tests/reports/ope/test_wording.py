"""Words that the reports on off-policy evaluation share."""

from __future__ import annotations

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.weighting.intervals import Interval
from lightning_offrl.reports.ope import wording
from tests.ope.coin_log import POLICY, finite_log


def test_sentences_begin_with_a_capital_unless_with_the_name_of_an_estimator():
    assert wording.sentence("weights +- error") == "Weights ± error."
    assert wording.sentence("Done.") == "Done."
    assert wording.sentence("wis, divided") == "wis, divided."


def test_intervals_with_true_minus_signs():
    assert wording.between(None) == "–"
    assert wording.between(Interval(-1.5, 2.25, 0.95, "percentile")) == "−1.5 to 2.25"


def test_what_is_estimated():
    found = evaluate(POLICY, finite_log(), discount=0.9)
    assert wording.estimand(found) == (
        "the return, discounted by 0.9 a step over whole episodes, from first states as in the log"
    )
    assert wording.headline(found).startswith("policy would earn about ")
    alone = evaluate(POLICY, finite_log(steps=1), discount=1.0)
    assert wording.estimand(alone) == "the reward of one decision, in situations as in the log"


def test_what_is_resampled():
    assert wording.resampled(Clusters.of([0, 1, 2], 3)) == "each has its own, so intervals resample episodes"
    few = wording.resampled(Clusters.of([0, 0, 1, 1], 4))
    assert few == "they vary like 2.0 of equal size, too few for any interval"
    many = wording.resampled(Clusters.of([i // 2 for i in range(200)], 200))
    assert many == "intervals resample whole clusters"


def test_methods_are_defined_in_clusters_where_these_are_resampled():
    found = evaluate(POLICY, finite_log(), discount=0.9)
    assert set(wording.interval_methods(found)) == {row.interval.method for row in found.rows if row.interval}
    assert all("clusters" not in text for text in wording.interval_methods(found).values())
    labels = [i // 4 for i in range(400)]
    found = evaluate(POLICY, finite_log(), discount=0.9, clusters=labels)
    assert any("whole clusters" in text for text in wording.interval_methods(found).values())
