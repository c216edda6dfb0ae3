"""Placement: where batches and state live; the one place that puts arrays on devices.

    RunConfig(train_distribute=DataParallel())      # every device of this machine
    RunConfig(train_distribute=DataParallel(jax.devices()[:2]))

A batch is global: it is split over the devices, the state is copied to each. The numbers do not
depend on how many there are.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_LOG = logging.getLogger(__name__)


class Placement:
    """Everything on JAX's default device."""

    @property
    def moves_batches(self) -> bool:
        """Whether a batch must travel: not on a CPU, where a step reads numpy memory itself."""
        return jax.default_backend() != "cpu"

    @property
    def mesh(self) -> Mesh | None:
        """The devices that batches are split over; None: there is one."""
        return None

    @property
    def in_flight(self) -> int | None:
        """How many steps may be dispatched and not finished; None: as many as JAX allows."""
        return None

    @property
    def state_sharding(self) -> Any:
        """Where variables and optimizer state live, as in `jax.jit`; None: the default device."""
        return None

    def put_batch(self, inputs: list[Any]) -> list[Any]:
        """Puts the arrays of a batch where a step wants them."""
        return jax.device_put(inputs) if self.moves_batches else inputs

    def put_block(self, inputs: list[Any]) -> list[Any]:
        """Puts a stack of batches, whose first axis is the step, where a block wants them."""
        return self.put_batch(inputs)

    def put_state(self, state: Any) -> Any:
        """Puts variables, or a whole state, on the device."""
        device = _device_named(jax.config.jax_default_device)  # type: ignore[attr-defined]

        def put(leaf: Any) -> Any:
            # To put what is there already costs a small model as much as an evaluation.
            is_there = isinstance(leaf, jax.Array) and leaf.committed and leaf.devices() == {device}
            return leaf if is_there else jax.device_put(leaf, device)

        return jax.tree.map(put, state)


@functools.cache
def _device_named(default: Any) -> jax.Device:
    """Returns the device that arrays go to while `jax.default_device` is that."""
    (device,) = jax.device_put(0).devices()
    return device


class MeshPlacement(Placement):
    """Batches split over the devices of a mesh, the state on each of them."""

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self._mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        self._on_cpu = devices[0].platform == "cpu"
        self._split = NamedSharding(self._mesh, PartitionSpec("data"))
        self._split_block = NamedSharding(self._mesh, PartitionSpec(None, "data"))
        self._copied = NamedSharding(self._mesh, PartitionSpec())
        # Whether a batch was split so far, and whether it was told that none is.
        self._has_split = False
        self._has_told = False

    @property
    def mesh(self) -> Mesh | None:
        """The devices, along one axis."""
        return self._mesh

    @property
    def moves_batches(self) -> bool:
        """Always: a batch must be split."""
        return True

    @property
    def in_flight(self) -> int | None:
        """Two on CPU devices, where collectives of more steps lock each other out."""
        return 2 if self._on_cpu else None

    @property
    def state_sharding(self) -> Any:
        """A copy on each device."""
        return self._copied

    def put_batch(self, inputs: list[Any]) -> list[Any]:
        """Splits a batch by rows; one that does not divide goes whole to each device."""
        return self._put(inputs, axis=0, split=self._split)

    def put_block(self, inputs: list[Any]) -> list[Any]:
        """Splits each batch of a stack by rows."""
        return self._put(inputs, axis=1, split=self._split_block)

    def put_state(self, state: Any) -> Any:
        """Copies the state to each device."""
        return jax.device_put(state, self._copied)

    def _put(self, inputs: list[Any], axis: int, split: NamedSharding) -> list[Any]:
        rows = [x.shape[axis] for x in inputs if x.ndim > axis]
        divides = all(count % self._mesh.size == 0 for count in rows)
        if divides:
            self._has_split = self._has_split or bool(rows)
        elif not self._has_split:
            self._tell(rows)
        to = [split if divides and x.ndim > axis else self._copied for x in inputs]
        return jax.device_put(inputs, to)

    def _tell(self, rows: list[int]) -> None:
        """Warns, once, of an input whose batches all go whole to each device."""
        if not self._has_told:
            self._has_told = True
            _LOG.warning(
                "DataParallel: a batch of %s rows does not divide over %d devices, so each device "
                "computes it whole: the numbers are right, but nothing is gained. Choose a batch "
                "size that is a multiple of %d.",
                "/".join(str(count) for count in sorted(set(rows))),
                self._mesh.size,
                self._mesh.size,
            )


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Splits each batch over several devices.

    The cores of a CPU can be several devices, too, which is the fastest way to use them for a
    recurrent model: `jax.config.update("jax_num_cpu_devices", 2)` before anything else uses JAX.

    Attributes:
        devices: which; None: all of JAX's local devices.

    Raises:
        ValueError: if it names no device, one twice, or devices of several kinds.
    """

    devices: tuple[jax.Device, ...] | None = None

    def __post_init__(self) -> None:
        if self.devices is not None:
            object.__setattr__(self, "devices", tuple(self.devices))
            if not self.devices:
                raise ValueError("DataParallel: devices is empty. Give at least one, or None.")
            strange = [device for device in self.devices if not isinstance(device, jax.Device)]
            kinds = sorted({d.platform for d in self.devices if isinstance(d, jax.Device)})
            if strange or len(kinds) > 1 or len({*self.devices}) < len(self.devices):
                raise ValueError(
                    f"DataParallel: devices are {list(self.devices)}. Give different ones of one "
                    "kind, such as jax.devices()[:2], or None for all there are."
                )

    def placement(self) -> Placement:
        """Returns the placement on these devices."""
        return MeshPlacement(self.devices or tuple(jax.local_devices()))


def placement_for(distribute: DataParallel | None) -> Placement:
    """Returns the placement that a RunConfig asks for."""
    return Placement() if distribute is None else distribute.placement()
