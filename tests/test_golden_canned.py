"""Linear, deep, combined and baseline models answer what TensorFlow's answered."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden_training import assert_follows

import canned
import estimator as est
import feature_columns as fc

GOLDEN = json.loads((Path(__file__).parent / "golden" / "canned.json").read_text())
QUIET = est.RunConfig(save_summary_steps=None, log_step_count_steps=None, random_seed=0)


def columns_of(case):
    age, pos = fc.numeric_column("age"), fc.numeric_column("pos", shape=(2,))
    word = fc.categorical_column_with_vocabulary_list(
        "word", case["vocabulary"], num_oov_buckets=case["num_oov_buckets"]
    )
    wide = [age, fc.bucketized_column(age, case["boundaries"]), word]
    return wide, [age, pos, fc.embedding_column(word, case["embedding_dimension"])]


def model_of(case, **more):
    wide, deep = columns_of(case)
    units = case["hidden_units"]
    args = dict(case["args"])
    if case["class"].startswith("DNNLinear"):
        args |= {"linear_feature_columns": wide, "dnn_feature_columns": deep}
        args |= {"dnn_hidden_units": units}
    elif case["class"].startswith("DNN"):
        args |= {"feature_columns": deep, "hidden_units": units}
    elif case["class"].startswith("Linear"):
        args |= {"feature_columns": wide}
    if "wt" in case["features"]:
        args["weight_column"] = "wt"
    initial = {name: np.float32(value) for name, value in case["initial"].items()}
    return getattr(canned, case["class"])(config=QUIET, warm_start_from=initial, **args, **more)


def batch_of(case):
    numeric = {
        name: np.float32(value) for name, value in case["features"].items() if name != "word"
    }
    labels = np.array(case["labels"])
    if labels.dtype.kind == "f":
        labels = labels.astype(np.float32)
    return {**numeric, "word": np.array(case["features"]["word"])}, labels


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_training_follows_the_recorded_one(case):
    assert_follows(model_of(case), batch_of(case), case)
