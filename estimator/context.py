"""The context of one trace: what a function asks for while JAX traces it, and what it is given.

    frame = Frame()                          # discovering: everything asked for is written down
    run(frame, model_fn, features, labels)
    frame.variables                          # {"dense/kernel": VariableRecipe(...), ...}

Law: a frame lives as long as one trace. JAX caches inner traces (bodies of `scan`, inner `jit`,
`remat`) by function identity; a body traced in another frame, or under another scope, would bring
that frame's variables along, silently; so would a body traced before an assignment. Therefore
`jax.make_user_context` makes (frame, scope, number of assignments) part of the key of every such
cache.
"""

import contextlib
import contextvars
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import jax
from jax.extend.core import get_opaque_trace_state

_FRAME: contextvars.ContextVar["Frame | None"] = contextvars.ContextVar("frame", default=None)
_CACHE_KEY: Any = jax.make_user_context(None)

# Where a leaf of the raw batch lies: "features" or "labels", then its keys.
RawPath = tuple[Any, ...]


class RawLeaf(NamedTuple):
    """A value as a model_fn is given it, where it lies in the raw batch, and if it lost digits."""

    value: Any
    path: RawPath
    narrowed: bool


class Frame:
    """What one trace asks for and is given.

    Args:
        values: the variables by name; None while discovering.
        writable: whether assignments are kept.
        key: the key of this step, from which `next_rng_key` draws; None: there is none.
        step: the global step, a scalar.
        host: the arrays that host recipes made of this batch, by recipe name; or, while
            discovering, a function that makes one.
        mesh: the devices that the batch is split over; None: there is one.
    """

    def __init__(
        self,
        values: Mapping[str, jax.Array] | None = None,
        *,
        writable: bool = True,
        key: jax.Array | None = None,
        step: Any = None,
        host: Mapping[str, jax.Array] | Callable[[Any], Any] | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> None:
        self.token = object()
        self.values = values
        self.writable = writable
        self.key = key
        self.step = step
        self.host = host
        self.mesh = mesh
        self.scope = ""
        self.variables: dict[str, Any] = {}
        self.writes: dict[str, jax.Array] = {}
        self.raw: dict[int, RawLeaf] = {}
        self.host_recipes: dict[str, Any] = {}
        self.host_checks: dict[tuple[RawPath, Any], None] = {}
        self.by_width: dict[RawPath, None] = {}
        self.shared: dict[str, Any] = {}
        self.tags: dict[str, Any] = {}
        self.summaries: dict[str, Any] = {}
        self.key_counts: Counter[str] = Counter()
        self.opened: defaultdict[str, set[str]] = defaultdict(set)
        self.trace_state: Any = None
        self._write_count = 0
        self._contexts = contextlib.ExitStack()

    @property
    def discovering(self) -> bool:
        """Whether this trace finds out what there is, rather than computes."""
        return self.values is None

    def full_name(self, name: str) -> str:
        """Returns `name` inside the present scope; one that begins with a slash is whole."""
        if name.startswith("/"):
            return name[1:]
        return f"{self.scope}/{name}" if self.scope else name

    def unique_name(self, base: str) -> str:
        """Returns `base`, `base_1`, ...: the first that was not opened in the present scope."""
        taken = self.opened[self.scope]
        if base not in taken:
            return base
        index = 1
        while f"{base}_{index}" in taken:
            index += 1
        return f"{base}_{index}"

    def hand_over(self, value: Any, path: RawPath, narrowed: bool) -> Any:
        """Returns a leaf of the raw batch for the model_fn, remembering where it lies."""
        self.raw[id(value)] = RawLeaf(value, path, narrowed)  # held, so that no other gets its id
        return value

    def open(self, name: str) -> None:
        """Notes that the present scope has a `name`: no layer is numbered like it."""
        scope = "" if name.startswith("/") else self.scope
        self.opened[scope].add(name.removeprefix("/"))

    def write(self, full_name: str, value: jax.Array) -> None:
        """Gives a variable another value; whoever asks from now on is given it."""
        self.writes[full_name] = value
        self._write_count += 1
        self._renew_cache_key()

    @contextlib.contextmanager
    def enter_scope(self, name: str) -> Iterator[str]:
        """Makes `name` the innermost scope; automatic names begin anew inside."""
        outer = self.scope
        self.open(name)
        full = self.full_name(name)
        self.opened[full] = set()
        writes_before = self._write_count
        try:
            with self.in_scope(full):
                yield full
        finally:
            self.scope = outer
        if self._write_count != writes_before:
            self._renew_cache_key()  # the one that JAX returned to is from before the assignments

    @contextlib.contextmanager
    def in_scope(self, scope: str) -> Iterator[None]:
        """Makes `scope` the present one, and part of the key of JAX's caches."""
        outer = self._contexts
        with contextlib.ExitStack() as self._contexts:
            self.scope = scope
            self._renew_cache_key()
            try:
                yield
            finally:
                self._contexts = outer

    def _renew_cache_key(self) -> None:
        self._contexts.enter_context(_CACHE_KEY((self.token, self.scope, self._write_count)))

    @contextlib.contextmanager
    def inner_trace(self) -> Iterator[None]:
        """Lets nothing be drawn or written down meanwhile, as inside an inner transform."""
        outer, self.trace_state = self.trace_state, None
        try:
            yield
        finally:
            self.trace_state = outer

    def refuse_inner_trace(self, call: str, instead: str) -> None:
        """Raises if `call` is made inside the body of an inner transform."""
        if get_opaque_trace_state() != self.trace_state:
            raise ValueError(
                f"{call} inside jax.lax.scan, cond, while_loop, vmap, grad, jit, remat or rowwise: "
                f"the body is traced once, or twice, but runs any number of times. {instead}"
            )


def run(frame: Frame, fn: Callable[..., Any], *args: Any) -> Any:
    """Returns `fn(*args)`, with `frame` as the context of everything it asks for.

    >>> run(Frame(step=7), lambda: current_frame("an example").step)
    7
    """
    token = _FRAME.set(frame)
    frame.trace_state = get_opaque_trace_state()
    try:
        with frame.in_scope(""):
            return fn(*args)
    finally:
        _FRAME.reset(token)


def current_frame(call: str) -> Frame:
    """Returns the frame of the running trace.

    >>> frame = Frame()
    >>> run(frame, current_frame, "an example") is frame
    True

    Args:
        call: who asks, for the error message, such as `get_variable("w")`.

    Raises:
        RuntimeError: outside `trace`, `apply` and the model_fns of an Estimator.
    """
    frame = _FRAME.get()
    if frame is None:
        raise RuntimeError(
            f"{call} was called outside a model_fn. Variables, layers, summaries and columns work "
            "inside a model_fn. estimator.preview(fn, features) shows what a function makes of a "
            "batch; estimator.variables.trace and apply run one by hand."
        )
    return frame


def fold_name(key: jax.Array, name: str) -> jax.Array:
    """Returns `key` folded with 64 stable bits of `name`.

    >>> key = jax.random.key(0)
    >>> bool(fold_name(key, "a") == fold_name(key, "a")), bool(fold_name(key, "a") == key)
    (True, False)
    """
    digest = blake2b(name.encode(), digest_size=8).digest()
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key
