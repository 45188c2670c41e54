"""What short trainings side by side say."""

import math
import random

import pytest

from lightning_clr.short_runs import ShortRun, ShortRuns, signed_ranks

UNTRAINED = [2.0, 2.2, 1.9, 2.1, 1.8, 2.3, 2.0, 1.9]


def runs_with(gains, start=0.01, untrained=UNTRAINED):
    """Runs at the places that bring these gains."""
    runs = ShortRuns(start, ShortRun(0.0, untrained, 40))
    for place, gain in gains.items():
        values = [math.nan] if gain is None else [value - gain for value in untrained]
        runs.add(place, ShortRun(runs.lr(place), values, 40))
    return runs


def test_best_is_the_vertex_of_a_parabola():
    runs = runs_with({place: 1.0 - 0.05 * (place - 1.5) ** 2 for place in (0, 2, 4)})

    assert runs.best_lr == pytest.approx(0.01 * 4 ** (1.5 / 2))


def test_edge_is_where_a_fifth_is_lost():
    assert runs_with({0: 1.0, 2: 0.6, 4: 0.0}).edge_lr == pytest.approx(0.01 * 4**0.5)
    assert runs_with({0: 0.9, 2: 1.0, 4: None}).edge_lr == pytest.approx(0.04 * 4**0.2)
    assert runs_with({0: 0.5, 2: 1.0}).edge_lr == math.inf


@pytest.mark.parametrize(
    ("gains", "place"),
    [
        ({}, 0),
        ({0: 1.0}, 2),
        ({0: 1.0, 2: 0.5}, -2),
        ({0: 0.5, 2: 1.0}, 4),
        ({-2: 0.5, 0: 1.0, 2: 0.5}, None),
        ({0: None}, -2),
        ({0: -0.5, -2: 0.5}, -4),
        ({0: 0.0}, None),
        ({0: None, -2: 0.0}, -4),
        ({0: None, -2: 0.0, -4: 0.0}, None),
    ],
    ids=["start", "up", "down", "further up", "inside", "blown up", "worse", "nothing", "one more", "nothing below"],
)
def test_where_to_look_next(gains, place):
    assert runs_with(gains).next_place() == place


def test_run_that_has_risen_on_the_way_and_learned_nothing_has_failed():
    """As where units die: it ends as it began. One that has learned may have risen."""
    runs = runs_with({})
    runs.add(0, ShortRun(0.01, UNTRAINED, 40, worst=2.4))
    assert not runs.has_failed(0)
    runs.add(0, ShortRun(0.01, UNTRAINED, 40, worst=3.0))
    assert runs.has_failed(0)
    assert runs.next_place() == -2
    runs.add(0, ShortRun(0.01, [value - 1 for value in UNTRAINED], 40, worst=3.0))
    assert not runs.has_failed(0)


def test_gap_is_looked_into_only_once():
    assert runs_with({-2: 0.5, 0: 1.0, 2: 0.1}).gap == 1
    assert runs_with({-2: 0.5, 0: 1.0, 1: 0.1, 2: 0.1}).gap is None


def test_edge_is_kept_off_further_where_learning_has_hardly_begun():
    """So does a quarter of the best rate tell; a sweep that has learned dispels the doubt."""
    begun, hardly = runs_with({-2: 0.8, 0: 1.0, 2: -0.5}), runs_with({-2: 0.01, 0: 1.0, 2: -0.5})

    assert not begun.is_doubtful
    assert hardly.is_doubtful
    assert hardly.max_lr(is_clear=False)[0] == pytest.approx(hardly.edge_lr / 8)
    assert hardly.max_lr(is_clear=True)[0] == pytest.approx(hardly.edge_lr / 3.5)


def test_what_is_sure_does_not_depend_on_the_scale():
    """Nor on a few losses a thousand times as large: they are compared batch by batch, by their ranks."""
    untrained = [1000.0, 2.0, 3.0, 2.0, 800.0, 2.5, 3.0, 2.0]
    for scale in (1e-6, 1.0, 1e6):
        runs = ShortRuns(0.01, ShortRun(0.0, [scale * value for value in untrained], 40))
        runs.add(0, ShortRun(0.01, [0.9 * scale * value for value in untrained], 40))
        assert runs.has_learned
        runs.add(2, ShortRun(0.04, [1.1 * scale * value for value in untrained], 40))
        assert runs.has_failed(2)
        assert runs.first_failure_lr == 0.04


def test_noise_is_seldom_sure():
    rng = random.Random(0)
    ranks = [signed_ranks([rng.gauss(0, 1) for _ in range(8)]) for _ in range(2000)]

    assert sum(rank >= 2.2 for rank in ranks) / 2000 == pytest.approx(0.0125, abs=0.007)


def test_nothing_changed_is_nothing_learned():
    runs = runs_with({0: 0.0})

    assert not runs.has_learned
    assert not runs.has_failed(0)


def test_run_that_did_not_come_to_its_end_has_failed():
    runs = runs_with({0: 0.5, 2: None})

    assert runs.has_failed(2)
    assert math.isnan(ShortRun(0.1, [math.nan], 40).level)
