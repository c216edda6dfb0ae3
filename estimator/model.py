"""The model: its model_fn with all bindings and compiled steps, kept between calls.

    model = Model(model_fn)
    binding = model.bindings(ModeKeys.TRAIN).discover(batch)
    model.train_steps(binding, structure, mesh).one(leaves, inputs)

A kind of batch is discovered once, and compiles once for each of its sizes.
"""

from typing import Any

from jax.sharding import Mesh

from estimator import steps
from estimator.batches import Batch
from estimator.binding import Binding, discover
from estimator.model_fn import ModelFn


class Model:
    """What tracing and compiling has found out about a model_fn so far."""

    def __init__(self, model_fn: ModelFn) -> None:
        self.model_fn = model_fn
        self._bindings: dict[Any, Binding] = {}
        self._loose: dict[str, dict[Any, list[Any]]] = {}
        self._compiled: dict[Any, Any] = {}

    def bindings(self, mode: str) -> "ModeBindings":
        """Returns the bindings of one mode."""
        loose = self._loose.setdefault(mode, {})
        return ModeBindings(self.model_fn, mode, self._bindings, loose)

    def train_steps(self, binding: Binding, structure: Any, mesh: Mesh | None) -> steps.TrainSteps:
        """Returns the compiled training steps of a binding, for states of that structure."""
        key = (binding, mesh, structure)
        return self._once(key, lambda: steps.TrainSteps(binding, structure, mesh))

    def eval_step(self, binding: Binding, mesh: Mesh | None, summaries: bool) -> Any:
        """Returns the compiled evaluation step of a binding, with or without summaries."""
        summaries = summaries and bool(binding.summaries)
        key = (binding, mesh, summaries)
        return self._once(key, lambda: steps.eval_step(binding, mesh, summaries))

    def predict_step(
        self, binding: Binding, mesh: Mesh | None, keys: tuple[str, ...] | None
    ) -> Any:
        """Returns the compiled prediction step of a binding, for some of the answers."""
        return self._once((binding, mesh, keys), lambda: steps.predict_step(binding, mesh, keys))

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]


class ModeBindings:
    """The bindings of one mode, by the kind of batch.

    Attributes:
        loose: by the layout of a batch, which features an export has found to come in any form.
    """

    def __init__(
        self,
        model_fn: ModelFn,
        mode: str,
        known: dict[Any, Binding],
        loose: dict[Any, list[Any]],
    ) -> None:
        self.loose = loose
        self._model_fn = model_fn
        self._mode = mode
        self._known = known

    def find(self, batch: Batch) -> Binding | None:
        """Returns the binding of this kind of batch if there is one."""
        key = (self._mode, batch.layout)
        known = self._known.get(key)
        if known is None:
            of_mode = [b for (mode, _), b in list(self._known.items()) if mode == self._mode]
            known = next((binding for binding in of_mode if binding.fits(batch)), None)
            if known is not None:
                self._known[key] = known
        return known

    def discover(self, batch: Batch) -> Binding:
        """Returns the binding of this kind of batch, tracing the model_fn if need be."""
        known = self.find(batch)
        if known is None:
            known = discover(self._model_fn, self._mode, batch)
            self._known[self._mode, batch.layout] = known
        return known
