"""Columns as the golden answers write them down, and features in the forms that columns take."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import estimator as est
import feature_columns as fc

GOLDEN = json.loads((Path(__file__).parent / "golden" / "columns.json").read_text())


def center(x: Any) -> Any:
    return (x - 3) / 2


def sparse(rows: list[list[Any]], dtype: Any = None) -> est.SparseTensor:
    """Returns the SparseTensor whose row i holds `rows[i]` from column 0 on."""
    indices = [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
    values = [value for row in rows for value in row]
    array = values if dtype is None else np.array(values, dtype)
    width = max(map(len, rows), default=0)
    return est.SparseTensor(np.array(indices).reshape(-1, 2), array, (len(rows), width))


def features_of(case: dict[str, Any]) -> dict[str, Any]:
    """Returns the features of a golden case."""
    made = {}
    for key, feature in case["features"].items():
        dtype = None if feature["dtype"] == "string" else np.dtype(feature["dtype"])
        if "ragged" in feature:
            made[key] = sparse(feature["ragged"], dtype)
        else:
            made[key] = np.array(feature["dense"], dtype)
    return made


def columns_of(case: dict[str, Any], folder: Path) -> list[Any]:
    """Returns the columns of a golden case; vocabulary files are written into `folder`."""
    specs = case["columns"]
    if isinstance(specs, dict):
        return fc.shared_embedding_columns(**built(specs["shared"], case, folder))
    return [built(spec, case, folder) for spec in specs]


def built(spec: Any, case: dict[str, Any], folder: Path) -> Any:
    if isinstance(spec, list):
        return [built(item, case, folder) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "normalizer" in spec:
        return center
    if "array" in spec:
        values = np.array(case["weights"][spec["array"]], np.float32)
        return lambda key, shape, dtype: values
    if "lines" in spec:
        path = folder / "vocabulary.txt"
        path.write_text("".join(f"{line}\n" for line in spec["lines"]), encoding="utf-8")
        return str(path)
    arguments = {name: built(value, case, folder) for name, value in spec.items() if name != "fn"}
    if "dtype" in arguments:
        arguments["dtype"] = str if spec["dtype"] == "string" else np.dtype(spec["dtype"])
    return getattr(fc, spec["fn"])(**arguments) if "fn" in spec else arguments


def run(case: dict[str, Any], columns: list[Any], features: dict[str, Any]) -> Any:
    """Returns what the case's op makes of features, and the variables."""

    def net(features: dict[str, Any]) -> Any:
        if case["op"] == "linear_model":
            return fc.linear_model(features, columns, case["units"], case["sparse_combiner"])
        return getattr(fc, case["op"])(features, columns)

    weights = case["weights"] if case["op"] == "linear_model" else None
    values = None if weights is None else {n: np.float32(w) for n, w in weights.items()}
    return est.preview(net, features, variables=values)
