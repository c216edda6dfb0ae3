"""The prediction loop: answers of one batch are fetched while the next is computed.

    for answer in predict(...):
        answer["class_ids"]

Law: memory stays bounded, and nothing is read before somebody asks for an answer.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from estimator.batches import Batch
from estimator.binding import Binding
from estimator.evaluate_loop import HookedRun
from estimator.feed import Feed
from estimator.host_features import HostOutput
from estimator.live import Live
from estimator.messages import did_you_mean


def check_keys(binding: Binding, keys: tuple[str, ...] | None) -> None:
    """Checks `predict_keys` against what the model_fn predicts.

    Raises:
        ValueError: if a key is none of the predictions', or the predictions are one array.
    """
    if keys is None:
        return
    predictions = binding.spec.predictions
    if not isinstance(predictions, Mapping):
        raise ValueError(
            f"predict_keys={list(keys)} is not valid: the model_fn predicts one array, not a dict. "
            "Leave predict_keys out."
        )
    unknown = [key for key in keys if key not in predictions]
    if unknown:
        raise ValueError(
            f"predict_keys: the model_fn predicts {sorted(predictions)}, not {unknown}."
            f"{did_you_mean(unknown[0], predictions)}"
        )


def predict(
    *,
    feed: Feed,
    live: Live,
    ready: Callable[[Binding], Any],
    run: HookedRun,
    single: bool,
) -> Iterator[Any]:
    """Yields the answers, example by example or batch by batch.

    Args:
        feed: the batches.
        live: the variables' step and seed.
        ready: gives the compiled step of a binding, its variables handed over.
        run: the hooks, begun.
        single: whether to yield single examples.
    """
    waiting: tuple[Any, Batch] | None = None
    count = 0
    while not run.context.stop_requested:
        item = feed.take()
        if item is None:
            break
        run.before()
        counters = (np.int32(live.step), np.uint32(live.seed), np.int32(count))
        answers, tags = ready(item.binding)(counters, item.inputs)
        for leaf in jax.tree.leaves(answers):
            leaf.copy_to_host_async()
        named = answers if isinstance(answers, dict) else {"predictions": answers}
        run.after({**named, **tags})
        count += 1
        if waiting is not None:
            yield from _finished(waiting[0], waiting[1], single)
        waiting = (answers, item.batch)
    if waiting is not None:
        yield from _finished(waiting[0], waiting[1], single)
    run.end()


def _finished(answers: Any, raw: Batch, single: bool) -> Iterator[Any]:
    """Yields a batch of fetched answers as the user sees them."""
    if isinstance(answers, dict):
        batch: Any = {name: _fetch(answer) for name, answer in answers.items()}
    else:
        batch = _fetch(answers)
    if not single:
        yield batch
    elif isinstance(batch, dict):
        _check_lengths(batch, raw)
        names = list(batch)
        for row in zip(*batch.values(), strict=True):
            yield dict(zip(names, row, strict=True))
    else:
        _check_lengths({"predictions": batch}, raw)
        yield from batch


def _fetch(answer: Any) -> np.ndarray:
    # A copy: the user may write into it, and JAX's own memory is read-only.
    return answer.finish() if isinstance(answer, HostOutput) else np.array(answer)


def _check_lengths(answers: dict[str, np.ndarray], raw: Batch) -> None:
    """Checks that each prediction has one row for each example of the batch."""
    cure = (
        "Give every prediction one row for each example, or call predict(..., "
        "yield_single_examples=False)."
    )
    given = raw.lengths
    for name, array in answers.items():
        if not array.shape or (given and len(array) not in given):
            raise ValueError(
                f'predict: "{name}" has shape {array.shape}, but the batch has {sorted(given)} '
                f"examples. {cure}"
            )
    lengths = {name: len(array) for name, array in answers.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Batch length of predictions should be same, got {lengths}. {cure}")
