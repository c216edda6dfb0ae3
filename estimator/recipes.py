"""Recipes: frozen dataclasses that write themselves to JSON and are found again by name.

    @dataclasses.dataclass(frozen=True)
    class Upper(Recipe):
        key: str

    json.dumps(to_json(Upper("city")))      # '{"recipe": "Upper", "key": "city"}'
    from_json(to_json(Upper("city")))       # Upper(key='city')

What a model asks of the host (ids of strings, class names) must outlive the Python that asked: an
export runs it again in another process. So it is data, never a closure.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from estimator.messages import did_you_mean

# The keys of JSON objects that stand for something else than a dict.
_ARRAY = frozenset({"array", "shape", "dtype"})
_MARKS = (_ARRAY, frozenset({"dict"}), frozenset({"dtype"}), frozenset({"tuple"}))


class Recipe:
    """Base of everything that is written down by name: subclass it as a frozen dataclass.

    A subclass is registered under its `recipe_name`, by default the name of the class. Its fields
    may hold None, booleans, numbers, strings, tuples, dicts, numpy types, numpy arrays and recipes.
    A class that says `may_hold_functions = True` may hold functions, too, at a price: a recipe that
    does cannot be written down, which is found out when it is asked to.

    A class that says `reads_files = True` must give in `self_contained` a recipe that does not.

    Recipes of one class are equal if their fields are, arrays and dicts included.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Scale(Recipe):
    ...     factors: Any
    >>> Scale(np.array([1, 2])) == Scale(np.array([1, 2]))
    True
    """

    recipe_name: ClassVar[str]
    may_hold_functions: ClassVar[bool] = False
    reads_files: ClassVar[bool] = False
    _registry: ClassVar[dict[str, type["Recipe"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("recipe_name", cls.__name__)
        known = Recipe._registry.get(name)
        if known is not None and _identity(known) != _identity(cls):
            raise ValueError(
                f'class {_identity(cls)}: the recipe name "{name}" belongs to {_identity(known)}. '
                "Give the class another `recipe_name`."
            )
        cls.recipe_name = name
        Recipe._registry[name] = cls
        # In the class itself, or the dataclass makes its own, which fail on arrays and dicts.
        for method in ("__eq__", "__hash__"):
            if method not in cls.__dict__:
                setattr(cls, method, getattr(Recipe, method))

    def self_contained(self) -> "Recipe":
        """Returns a recipe that does the same and needs no file, for an export."""
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        names = [f.name for f in dataclasses.fields(self) if f.compare]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        fields = [f for f in dataclasses.fields(self) if f.compare]  # type: ignore[arg-type]
        values = [getattr(self, f.name) for f in fields]
        return hash((self.recipe_name, *(v for v in values if isinstance(v, str))))


def check_recipe(recipe: Any, kind: type[Recipe], where: str) -> None:
    """Checks that something is a recipe and can be written down.

    >>> check_recipe("city", Recipe, "host_feature")
    Traceback (most recent call last):
    TypeError: host_feature: a recipe must be a frozen dataclass that inherits from Recipe, got...

    Args:
        recipe: what was given.
        kind: the class of recipes that is wanted.
        where: who was given it, for the error message.

    Raises:
        TypeError: if it is no frozen dataclass of that class, or a field holds code.
    """
    if not isinstance(recipe, kind) or not _is_frozen(type(recipe)):
        raise TypeError(
            f"{where}: a recipe must be a frozen dataclass that inherits from {kind.__name__}, got "
            f"{recipe!r}. Write @dataclasses.dataclass(frozen=True) above its class."
        )
    if not recipe.may_hold_functions:
        to_json(recipe)


def self_contained(value: Any) -> Any:
    """Returns recipes, and all that they are made of, in a form that needs no files."""
    if isinstance(value, Recipe):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
        made = {name: self_contained(field) for name, field in fields.items()}
        changed = {name: new for name, new in made.items() if new is not fields[name]}
        whole = dataclasses.replace(value, **changed) if changed else value  # type: ignore[type-var]
        return whole.self_contained()
    if isinstance(value, Mapping):
        return {key: self_contained(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = type(value)(self_contained(part) for part in value)
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
    return value


def recipes_in(value: Any) -> list["Recipe"]:
    """Returns a recipe and all those that it is made of."""
    if isinstance(value, Recipe):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]  # type: ignore[arg-type]
        return [value, *(recipe for field in fields for recipe in recipes_in(field))]
    if isinstance(value, Mapping):
        return [recipe for pair in value.items() for recipe in recipes_in(pair)]
    if isinstance(value, tuple | list):
        return [recipe for part in value for recipe in recipes_in(part)]
    return []


def to_json(value: Any) -> Any:
    """Returns `value` as plain JSON data.

    >>> to_json({"bounds": (1, 2.5), "dtype": np.dtype("int32")})
    {'bounds': {'tuple': [1, 2.5]}, 'dtype': {'dtype': 'int32'}}

    Args:
        value: a recipe, or anything a recipe may hold.

    Raises:
        TypeError: if it holds something that is code, not data (a lambda, for example).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"dtype": _dtype_name(np.dtype(value))}
    if isinstance(value, np.ndarray):
        items = [to_json(item) for item in value.ravel().tolist()]
        return {"array": items, "shape": list(value.shape), "dtype": _dtype_name(value.dtype)}
    if isinstance(value, tuple):
        return {"tuple": [to_json(item) for item in value]}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        plain = all(isinstance(key, str) for key in value) and "recipe" not in value
        if plain and value.keys() not in _MARKS:
            return {key: to_json(item) for key, item in value.items()}
        return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, Recipe) and dataclasses.is_dataclass(value):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if "recipe" not in fields:  # the name of the recipe stands there
            return {"recipe": value.recipe_name, **fields}
        raise TypeError(f'{value!r}: a recipe cannot have a field "recipe". Rename the field.')
    raise TypeError(
        f"{value!r} is a {type(value).__name__}, which JSON cannot hold. A recipe is data: use "
        "numbers, strings, tuples, numpy arrays or other recipes in place of functions."
    )


def from_json(data: Any) -> Any:
    """Returns what `to_json` wrote.

    >>> from_json(to_json((1, "a")))
    (1, 'a')

    Raises:
        ValueError: if a recipe's name is unknown in this process.
    """
    if isinstance(data, list):
        return [from_json(item) for item in data]
    if not isinstance(data, dict):
        return data
    if data.keys() == {"tuple"}:
        return tuple(from_json(item) for item in data["tuple"])
    if data.keys() == {"dtype"}:
        return np.dtype(data["dtype"])
    if data.keys() == _ARRAY:
        return np.array(data["array"], dtype=data["dtype"]).reshape(data["shape"])
    if data.keys() == {"dict"}:
        return {from_json(key): from_json(item) for key, item in data["dict"]}
    fields = {key: from_json(item) for key, item in data.items() if key != "recipe"}
    if "recipe" not in data:
        return fields
    name = data["recipe"]
    if name not in Recipe._registry:
        raise ValueError(
            f'No recipe is registered as "{name}".{did_you_mean(name, Recipe._registry)} '
            "Import the module that defines it first."
        )
    return Recipe._registry[name](**fields)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, types.FunctionType) and isinstance(b, types.FunctionType):
        # A function made twice by one line, as a model_fn does in each trace, is one function.
        return a.__code__ == b.__code__ and _same(_captured(a), _captured(b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        return both and a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and type(a) is type(b):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _captured(function: types.FunctionType) -> tuple[Any, ...]:
    """Returns what a function's answer depends on besides its code and its module."""
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return (cells, function.__defaults__, function.__kwdefaults__, function.__module__)


def _is_frozen(cls: type) -> bool:
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _dtype_name(dtype: np.dtype) -> str:
    """Returns a name that np.dtype takes; that of a string type gives bits, which it refuses."""
    return dtype.str if dtype.kind in "US" else dtype.name


def _identity(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
