"""The document of a dataset report: well-formed for every kind of data, with the numbers that were measured."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from lightning_offrl.reports.dataset.document import document
from lightning_offrl.reports.dataset.measure import measure
from lightning_offrl.reports.formatting import mean_and_error, short_number
from tests.reports.dataset.worlds import broken, judged, made, mixture
from tests.reports.html_checks import checked


def test_every_picture_says_what_it_shows_with_a_number() -> None:
    found = checked(document(measure({**mixture(), "name": "a <mixed> set"})))
    assert "a &lt;mixed&gt; set" in found and "<mixed>" not in found and len(found) < 600_000
    labels = re.findall(r'<svg[^>]*aria-label="([^"]+)"', found)
    assert len(labels) == found.count("<svg") >= 7 and all(re.search(r"\d", label) for label in labels)


def test_what_was_measured_is_in_it() -> None:
    measures, assessment = judged(mixture())
    found = checked(document(measures))
    assert f"<h1>{assessment.verdict.headline}</h1>" in found and "Worth learning from" in found
    assert mean_and_error(measures.returns.mean, measures.returns.error) in found
    assert f"<td>{short_number(measures.stitching.single)}</td>" in found
    assert "<dd>0</dd><dt>problems to repair</dt>" in found
    assert 'scope="row">policy 2</th>' in found and "Nothing to repair" in found


def test_problems_are_counted_and_named_first() -> None:
    found = checked(document(measure(broken())))
    assert "<dd>4</dd><dt>problems to repair</dt>" in found and "<dd>1</dd><dt>warning</dt>" in found
    assert "Repair first: terminal states, duplicates, rewards, constant actions." in found
    assert found.count('<li class="problem">') == 4


def test_pictures_and_nested_observations_are_reported(make_arrays: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = make_arrays(episodes=8, length=10)
    arrays["observations"] = {
        "camera": rng.integers(0, 256, (80, 12, 12, 1), dtype=np.uint8),
        "state": rng.normal(size=(80, 2)).astype(np.float32),
    }
    arrays["next_observations"] = None
    arrays["actions"] = rng.integers(0, 3, 80)
    found = checked(document(measure(arrays)))
    # one row for the whole picture, one for each number of the vector
    names = re.findall(r'<th scope="row">([^<]+)</th>', found[found.index("Observations as stored") :])
    assert names == ["camera", "state 0", "state 1"]
    assert "<td>0</td>" in found and "<td>255</td>" in found


def test_columns_of_a_log_have_their_names_and_units() -> None:
    measures = measure(made(30))
    measures.columns.update(
        observation=[{"name": "lactate", "unit": "mmol/l"}], action=[{"name": "dose", "unit": "mg"}]
    )
    found = checked(document(measures))
    assert "lactate (mmol/l)" in found and "<td>−1 to 1 mg</td>" in found


def test_tiny_data_is_reported(make_arrays: Any) -> None:
    for episodes, length in ((2, 5), (3, 1), (2, 2), (1, 1)):
        measures, assessment = judged(make_arrays(episodes=episodes, length=length))
        assert assessment.verdict.kind == "refuse"
        assert f"<dd>{episodes * length}</dd><dt>steps</dt>" in checked(document(measures))
