"""Laws of all metrics: scikit-learn's values, whatever the batches, the devices and the weights."""

import inspect
import itertools
from collections.abc import Callable
from functools import cache, reduce
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import scipy.integrate
import sklearn.metrics as sk
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from estimator import metrics as m
from estimator.metrics import to_host

ROWS, PART = 84, 7  # divided by the parts, and by 1, 2, 3 and 4 devices
CLASSES, RANKED = 4, 5

pytestmark = pytest.mark.usefixtures("strict_promotion")


class Rows(NamedTuple):
    """What the metrics of the table are given; the first axis is that of the rows."""

    weights: Any
    numbers: Any
    guesses: Any
    normalizer: Any
    vectors: Any  # of length 1
    others: Any
    classes: Any
    answers: Any
    truth: Any  # 0 or 1
    verdicts: Any
    scores: Any  # in [0, 1], halfway between two of the 200 thresholds, many of them equal
    wanted: Any  # classes of an example; -1 is none, and some stand there twice
    one: Any
    ranking: Any  # a number for each class


def rows_of(seed: int = 0, count: int = ROWS) -> Rows:
    draw = np.random.default_rng(seed)
    numbers = draw.normal(5, 3, count)
    vectors, others = draw.normal(size=(2, count, 3))
    classes = draw.integers(0, CLASSES, count)
    truth = draw.integers(0, 2, count)
    wanted = draw.integers(0, RANKED, (count, 3))
    made = Rows(
        weights=draw.uniform(0.1, 2, count),
        numbers=numbers,
        guesses=numbers + draw.normal(0, 1, count),
        normalizer=draw.uniform(0.5, 2, count) * (draw.uniform(size=count) < 0.9),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        others=others / np.linalg.norm(others, axis=1, keepdims=True),
        classes=classes,
        answers=np.where(draw.uniform(size=count) < 0.6, classes, draw.integers(0, CLASSES, count)),
        truth=truth,
        verdicts=np.where(draw.uniform(size=count) < 0.7, truth, 1 - truth),
        scores=(np.clip(draw.normal(12 + 8 * truth, 6), 0, 39).round() * 5 + 0.5) / 199,
        wanted=np.where(draw.uniform(size=(count, 3)) < 0.3, -1, wanted),
        one=wanted[:, 0],
        ranking=draw.permuted(np.tile(np.arange(RANKED) - 1.5, (count, 1)), axis=1),
    )
    return jax.tree.map(lambda x: x.astype(np.float32 if x.dtype.kind == "f" else np.int32), made)


# What else computes them. Each is given rows in float64, and a weight for each row.

EVEN = [-1e-7, *(i / 199 for i in range(1, 199)), 1 + 1e-7]
FEW = (0.6, 0.2, 0.45, 0.2)


def counts_at(r, w, thresholds):
    """Returns true and false positives, true and false negatives, each by threshold."""
    above = r.scores[None, :] > np.array(thresholds)[:, None]
    kinds = (above & (r.truth == 1), above & (r.truth == 0))
    kinds += (~above & (r.truth == 0), ~above & (r.truth == 1))
    return [(kind * w).sum(1) for kind in kinds]


def rates_at(r, w, thresholds):
    tp, fp, tn, fn = counts_at(r, w, thresholds)
    precision = np.array([t / (t + f) if t + f else 0.0 for t, f in zip(tp, fp, strict=True)])
    return {"precision": precision, "recall": tp / (tp + fn), "specificity": tn / (tn + fp)}


def best(rate, other, least):
    def oracle(r, w):
        rates = rates_at(r, w, EVEN)
        allowed = zip(rates[rate], rates[other], strict=True)
        return max(value for value, constraint in allowed if constraint >= least)

    return oracle


def area(curve, pick, thresholds=EVEN):
    """Returns the sum of rectangles of the height that is picked of a strip's two sides."""

    def oracle(r, w):
        tp, fp, tn, fn = counts_at(r, w, thresholds)
        x = fp / (fp + tn) if curve == "ROC" else tp / (tp + fn)
        with np.errstate(invalid="ignore"):
            y = tp / (tp + fn) if curve == "ROC" else np.where(tp + fp == 0, 1, tp / (tp + fp))
        return sum((x[i] - x[i + 1]) * pick([y[i], y[i + 1]]) for i in range(len(thresholds) - 1))

    return oracle


def davis_goadrich(r, w):
    """Integrates precision where false positives grow in a straight line with true positives."""
    tp, fp, _, fn = counts_at(r, w, EVEN)
    whole = 0.0
    for i in np.flatnonzero(np.diff(tp)):
        slope = (fp[i] - fp[i + 1]) / (tp[i] - tp[i + 1])

        def precision(t, i=i, slope=slope):
            return t / (t + fp[i + 1] + slope * (t - tp[i + 1]))

        whole += scipy.integrate.quad(precision, tp[i + 1], tp[i])[0]
    return whole / (tp[0] + fn[0])


def ranked(kind, k, only=None, labels="wanted"):
    """Counts sets: the classes that are wanted, and the `k` with the highest numbers."""

    def oracle(r, w):
        right = whole = 0.0
        for wanted, ranking, weight in zip(getattr(r, labels), r.ranking, w, strict=True):
            sets = {"recall": {int(c) for c in np.atleast_1d(wanted)} - {-1}}
            sets["precision"] = {int(c) for c in np.argsort(-ranking)[:k]}
            if only is not None:
                sets = {name: classes & {only} for name, classes in sets.items()}
            right += weight * len(sets["recall"] & sets["precision"])
            whole += weight * len(sets[kind])
        return right / whole

    return oracle


def confusion(row, column):
    return lambda r, w: sk.confusion_matrix(r.truth, r.verdicts, sample_weight=w)[row, column]


def scored(fn, truth, answers, **settings):
    return lambda r, w: fn(getattr(r, truth), getattr(r, answers), sample_weight=w, **settings)


def own(fn, labels, predictions, *args, **settings):
    return lambda r, w: fn(
        getattr(r, labels), getattr(r, predictions), *args, weights=w, **settings
    )


class Case(NamedTuple):
    metric: Callable[[Rows, Any], m.Metric]
    oracle: Callable[[Rows, Any], Any]


REGRESSION, CHOICE = ("numbers", "guesses"), ("classes", "answers")
BINARY, RANKING, MANY = ("truth", "verdicts"), ("one", "ranking"), ("wanted", "ranking")
SCORED = ("truth", "scores")
TABLE = {
    "mean": Case(lambda r, w: m.mean(r.numbers, w), lambda r, w: np.average(r.numbers, weights=w)),
    "sum": Case(lambda r, w: m.sum(r.numbers, w), lambda r, w: (r.numbers * w).sum()),
    "accuracy": Case(own(m.accuracy, *CHOICE), scored(sk.accuracy_score, *CHOICE)),
    "mean_squared_error": Case(
        own(m.mean_squared_error, *REGRESSION), scored(sk.mean_squared_error, *REGRESSION)
    ),
    "root_mean_squared_error": Case(
        own(m.root_mean_squared_error, *REGRESSION),
        scored(sk.root_mean_squared_error, *REGRESSION),
    ),
    "mean_absolute_error": Case(
        own(m.mean_absolute_error, *REGRESSION), scored(sk.mean_absolute_error, *REGRESSION)
    ),
    "mean_relative_error": Case(
        lambda r, w: m.mean_relative_error(r.numbers, r.guesses, r.normalizer, w),
        lambda r, w: np.average(
            [abs(a - b) / n if n else 0 for a, b, n in zip(r[1], r[2], r[3], strict=True)],
            weights=w,
        ),
    ),
    "mean_cosine_distance": Case(
        own(m.mean_cosine_distance, "vectors", "others", 1),
        lambda r, w: np.average(sk.pairwise.paired_cosine_distances(r[4], r[5]), weights=w),
    ),
    "percentage_below": Case(
        lambda r, w: m.percentage_below(r.numbers, 4.0, w),
        lambda r, w: np.average(r.numbers < 4, weights=w),
    ),
    "r2": Case(own(m.r2, *REGRESSION), scored(sk.r2_score, *REGRESSION)),
    "true_negatives": Case(own(m.true_negatives, *BINARY), confusion(0, 0)),
    "false_positives": Case(own(m.false_positives, *BINARY), confusion(0, 1)),
    "false_negatives": Case(own(m.false_negatives, *BINARY), confusion(1, 0)),
    "true_positives": Case(own(m.true_positives, *BINARY), confusion(1, 1)),
    "precision": Case(own(m.precision, *BINARY), scored(sk.precision_score, *BINARY)),
    "recall": Case(own(m.recall, *BINARY), scored(sk.recall_score, *BINARY)),
    "mean_per_class_accuracy": Case(
        own(m.mean_per_class_accuracy, *CHOICE, CLASSES),
        scored(sk.balanced_accuracy_score, *CHOICE),
    ),
    "mean_iou": Case(
        own(m.mean_iou, *CHOICE, CLASSES), scored(sk.jaccard_score, *CHOICE, average="macro")
    ),
    "recall_at_k": Case(
        own(m.recall_at_k, *RANKING, 2),
        scored(sk.top_k_accuracy_score, *RANKING, k=2, labels=range(RANKED)),
    ),
    "recall_at_k, many": Case(own(m.recall_at_k, *MANY, 3), ranked("recall", 3)),
    "recall_at_k, a class": Case(own(m.recall_at_k, *MANY, 2, 1), ranked("recall", 2, 1)),
    "precision_at_k": Case(
        own(m.precision_at_k, *RANKING, 2), ranked("precision", 2, labels="one")
    ),
    "precision_at_k, many": Case(own(m.precision_at_k, *MANY, 3), ranked("precision", 3)),
    "precision_at_k, a class": Case(own(m.precision_at_k, *MANY, 2, 1), ranked("precision", 2, 1)),
    "auc": Case(own(m.auc, *SCORED), scored(sk.roc_auc_score, *SCORED)),
    "auc, 9": Case(
        own(m.auc, *SCORED, num_thresholds=9),
        area("ROC", np.mean, [-1e-7, *(i / 8 for i in range(1, 8)), 1 + 1e-7]),
    ),
    "auc, minoring": Case(own(m.auc, *SCORED, summation_method="minoring"), area("ROC", min)),
    "auc, majoring": Case(own(m.auc, *SCORED, summation_method="majoring"), area("ROC", max)),
    "auc, thresholds": Case(
        own(m.auc, *SCORED, thresholds=FEW), area("ROC", np.mean, [-1e-7, *sorted(FEW), 1 + 1e-7])
    ),
    "auc, PR": Case(own(m.auc, *SCORED, curve="PR"), davis_goadrich),
    "precision_at_thresholds": Case(
        own(m.precision_at_thresholds, *SCORED, FEW), lambda r, w: rates_at(r, w, FEW)["precision"]
    ),
    "recall_at_thresholds": Case(
        own(m.recall_at_thresholds, *SCORED, FEW), lambda r, w: rates_at(r, w, FEW)["recall"]
    ),
    "sensitivity_at_specificity": Case(
        own(m.sensitivity_at_specificity, *SCORED, 0.8), best("recall", "specificity", 0.8)
    ),
    "specificity_at_sensitivity": Case(
        own(m.specificity_at_sensitivity, *SCORED, 0.8), best("specificity", "recall", 0.8)
    ),
    "precision_at_recall": Case(
        own(m.precision_at_recall, *SCORED, 0.7), best("precision", "recall", 0.7)
    ),
}
TABLE |= {
    f"auc, PR, {method}": Case(
        own(m.auc, *SCORED, curve="PR", summation_method=method), area("PR", pick)
    )
    for method, pick in (("trapezoidal", np.mean), ("minoring", min), ("majoring", max))
}
SUMS = ["sum", "true_positives", "false_positives", "true_negatives", "false_negatives"]

TRACES: list[tuple[int, ...]] = []


@jax.jit
def program(rows: Rows) -> dict[str, dict[str, m.Metric]]:
    """Returns all metrics of the table: one program, compiled once for each size of batch."""
    TRACES.append(rows.weights.shape)
    return {
        "plain": {name: case.metric(rows, None) for name, case in TABLE.items()},
        "weighted": {name: case.metric(rows, rows.weights) for name, case in TABLE.items()},
    }


@jax.jit
def traced_values(metrics: Any) -> Any:
    return {kind: {n: v.compute() for n, v in named.items()} for kind, named in metrics.items()}


def on_host(rows: Rows) -> Any:
    made = jax.device_get(program(rows))
    return {kind: {n: to_host(v) for n, v in named.items()} for kind, named in made.items()}


def values(*batches: Rows, kinds: tuple[str, ...] = ("plain", "weighted")) -> dict[str, Any]:
    """Returns what evaluate would report of these batches."""
    return merged([on_host(batch) for batch in batches], kinds)


def merged(parts: list[Any], kinds: tuple[str, ...] = ("plain", "weighted")) -> dict[str, Any]:
    return {
        (kind, name): reduce(lambda a, b: a.merge(b), [p[kind][name] for p in parts]).compute()
        for kind in kinds
        for name in TABLE
    }


@cache
def whole() -> dict[str, Any]:
    return values(rows_of())


def cut(rows: Rows, cuts: Any) -> list[Rows]:
    return [taken(rows, slice(a, b)) for a, b in itertools.pairwise(cuts)]


def taken(rows: Rows, chosen: Any) -> Rows:
    return jax.tree.map(lambda x: x[chosen], rows)


def of_kind(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for (k, name), value in found.items() if k == kind}


def same(given: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-6) -> None:
    assert given.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(
            given[name], expected[name], rtol=rtol, atol=1e-7, err_msg=str(name)
        )


def test_the_table_has_all_metrics():
    functions = {n for n in m.__all__ if inspect.isfunction(getattr(m, n))} - {"to_host"}
    assert {name.split(",")[0] for name in TABLE} == functions


@pytest.mark.parametrize("name", TABLE)
def test_a_metric_is_what_scikit_learn_computes(name):
    rows = jax.tree.map(np.float64, rows_of())
    for kind, weights in (("plain", np.ones(ROWS)), ("weighted", rows.weights)):
        expected = TABLE[name].oracle(rows, weights)
        np.testing.assert_allclose(whole()[kind, name], expected, rtol=3e-6, err_msg=kind)


# Batches, order, devices.


@pytest.mark.parametrize("size", [1, PART])
def test_the_size_of_the_batches_changes_nothing(size):
    batches = cut(rows_of(), [0, 0, *range(size, ROWS, size), ROWS, ROWS])
    parts = [on_host(batch) for batch in batches]
    same(merged(parts), whole())
    same(merged(parts[::-1]), whole())


def test_the_order_of_the_rows_changes_nothing():
    same(values(taken(rows_of(), np.random.default_rng(1).permutation(ROWS))), whole())


def test_the_number_of_devices_changes_nothing():
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    mesh = Mesh(np.array(jax.devices()[:4]), ("rows",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(rows_of(), NamedSharding(mesh, PartitionSpec("rows")))
    same(values(spread), whole())


def test_metrics_of_two_batches_have_one_structure_and_are_traced_once():
    one, count = program(taken(rows_of(), slice(PART))), len(TRACES)
    other = program(rows_of(1, PART))
    assert len(TRACES) == count
    assert jax.tree.structure(one) == jax.tree.structure(other)
    longer = program(rows_of())
    assert jax.tree.structure(one) == jax.tree.structure(longer)
    shapes = [[x.shape for x in jax.tree.leaves(made)] for made in (one, longer)]
    assert shapes[0] == shapes[1]


# Weights.


def test_weights_of_one_are_the_same_as_none():
    given = values(rows_of()._replace(weights=np.ones(ROWS, np.float32)))
    same(of_kind("weighted", given), of_kind("plain", whole()))


def test_a_weight_of_zero_is_the_same_as_a_row_left_out():
    rows = rows_of()
    out = np.arange(ROWS) % 2 == 1
    # What would be an error, or a large one, if it counted.
    useless = Rows(0, -50, 70, 0, 9, 9, 99, -7, 3, 5, 7, 77, 77, np.nan)
    mixed = jax.tree.map(lambda x, no: np.where(out, x.dtype.type(no), x.T).T, rows, useless)
    mixed.scores[1::4] = np.nan
    kept = cut(taken(rows, ~out), range(0, ROWS // 2 + 1, PART))
    same(values(mixed, kinds=("weighted",)), values(*kept, kinds=("weighted",)))


def test_a_whole_weight_is_the_same_as_so_many_copies_of_the_row():
    rows = taken(rows_of(), slice(ROWS // 2))
    copies = np.tile([3, 1, 2], ROWS // 6)
    weighted = rows._replace(weights=copies.astype(np.float32))
    given = values(*cut(weighted, range(0, ROWS // 2 + 1, PART)))
    same(
        of_kind("weighted", given),
        of_kind("plain", values(taken(rows, np.arange(ROWS // 2).repeat(copies)))),
    )


def test_scaled_weights_scale_sums_and_no_ratio():
    rows = rows_of()
    given = of_kind("weighted", values(rows._replace(weights=rows.weights * np.float32(3))))
    expected = of_kind("weighted", whole())
    same(given, {n: v * 3 if n in SUMS else v for n, v in expected.items()})


def test_nothing_counted_is_zero_and_for_r2_one():
    nothing = {n: float(n == "r2") for n in TABLE}
    empty, weightless = rows_of(count=0), rows_of()._replace(weights=np.zeros(ROWS, np.float32))
    for rows, kinds in ((empty, ("plain", "weighted")), (weightless, ("weighted",))):
        for kind in kinds:
            for found in (of_kind(kind, values(rows)), traced_values(program(rows))[kind]):
                same(found, {n: np.full(np.shape(found[n]), v) for n, v in nothing.items()}, 0)


# On the device, and in other dtypes.


def test_a_traced_value_is_that_of_the_host():
    traced = traced_values(program(rows_of()))
    found = {(kind, n): value for kind, named in traced.items() for n, value in named.items()}
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    same(found, whole(), 1e-5)


def in_integers(rows: Rows) -> Rows:
    whole_numbers = jax.tree.map(lambda x: x.round().astype(np.int32), rows)
    small = {n: getattr(rows, n).astype(np.int8) for n in ("classes", "answers", "wanted", "one")}
    bools = {n: getattr(rows, n).astype(bool) for n in BINARY}
    return whole_numbers._replace(**small, **bools)


@pytest.mark.parametrize("dtype", ["bfloat16", "integers and bools"])
def test_a_value_does_not_depend_on_the_dtype_that_the_rows_are_kept_in(dtype):
    rows = rows_of()
    if dtype == "integers and bools":
        kept = in_integers(rows)
    else:
        kept = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, rows)
    widened = jax.tree.map(lambda x, like: np.asarray(x, like.dtype), kept, rows)
    same(values(kept), values(widened))
