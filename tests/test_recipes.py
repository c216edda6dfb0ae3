"""Recipes are data: JSON gives them back, their values tell them apart, and they hold no code."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from estimator import Recipe, from_json, to_json

pytestmark = pytest.mark.usefixtures("strict_promotion")


@dataclasses.dataclass(frozen=True)
class Table(Recipe):
    """Holds anything."""

    value: Any
    default: float = 0.5


VALUES = [
    None,
    True,
    -3,
    0.1,
    "Zürich",
    (1, ("a", None), ()),
    ["a", (1,)],
    {"a": {"b": (1,)}},
    {1: "a", (2, "b"): "c"},
    {"tuple": [1]},
    {"dtype": "a"},
    {"recipe": "Table"},
    {"dict": [[1, 2]]},
    {"array": 1, "shape": 2, "dtype": 3},
    np.dtype("int32"),
    np.dtype("U5"),
    np.array([1.5, np.pi], np.float32),
    np.array([[True], [False]]),
    np.zeros((0, 3), np.int64),
    np.array(["ab", "c"]),
    np.array(["ab", None], object),
    Table(Table((1, 2), 0.25)),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_a_recipe_holds_comes_back_from_json(value):
    recipe = Table(value)
    again = from_json(json.loads(json.dumps(to_json(recipe))))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert type(again.value) is type(recipe.value)


def test_a_numpy_type_comes_back_as_a_dtype():
    assert from_json(to_json(np.float32)) == np.dtype("float32")


def test_numpy_scalars_are_written_as_numbers():
    assert json.dumps(to_json({"a": np.float32(0.5), "b": np.int64(3)})) == '{"a": 0.5, "b": 3}'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([1, 2]), np.array([1, 2], np.int32)),
        (np.array([1, 2]), np.array([[1, 2]])),
        (np.array([1, 2]), (1, 2)),
        ({"a": np.zeros(2)}, {"a": np.ones(2)}),
        ({"a": 1}, {"b": 1}),
        ((1, 2), (1, 2, 3)),
        ("a", "b"),
    ],
)
def test_recipes_that_hold_different_values_differ(one, other):
    assert Table(one) != Table(other)
    assert Table(one) == Table(one)


def test_recipes_of_other_classes_differ():
    @dataclasses.dataclass(frozen=True)
    class Table2(Recipe):
        value: Any
        default: float = 0.5

    assert Table2(1) != Table(1)
    assert Table(1) != "Table"


def test_an_unknown_name_gets_its_nearest_neighbour():
    with pytest.raises(ValueError, match=r'registered as "Lokup".*mean "Lookup".*Import'):
        from_json({"recipe": "Lokup", "table": ["a"]})


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r'"Lookup" belongs to .*Lookup.*another `recipe_name`'):
        type("Lookup", (Recipe,), {})


def test_a_class_may_choose_its_name():
    @dataclasses.dataclass(frozen=True)
    class Plain(Recipe):
        recipe_name = "test.Plain"

    assert to_json(Plain()) == {"recipe": "test.Plain"}
    assert from_json({"recipe": "test.Plain"}) == Plain()


@pytest.mark.parametrize("value", [lambda x: x, {1, 2}, object(), b"bytes", {"a": (print,)}])
def test_code_in_a_field_is_refused(value):
    with pytest.raises(TypeError, match=r"JSON cannot hold.*A recipe is data"):
        to_json(Table(value))


def test_a_field_named_recipe_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Wrapper(Recipe):
        recipe: Any

    with pytest.raises(TypeError, match='cannot have a field "recipe"'):
        to_json(Wrapper(1))
