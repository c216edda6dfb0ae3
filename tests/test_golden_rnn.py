"""RNNClassifier answers what TensorFlow's answered, weight for weight."""

import json
from pathlib import Path

import numpy as np
import optax
import pytest
from golden_training import assert_follows

import estimator as est
import feature_columns as fc
from canned import RNNClassifier

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rnn.json").read_text())
QUIET = est.RunConfig(save_summary_steps=None, log_step_count_steps=None, random_seed=0)


def model_of(case):
    words = fc.sequence_categorical_column_with_vocabulary_list(
        "tok", case["vocabulary"], num_oov_buckets=case["num_oov_buckets"]
    )
    steps = [
        fc.embedding_column(words, case["embedding_dimension"]),
        fc.sequence_numeric_column("x", shape=(2,)),
    ]
    args = {name: value for name, value in case["args"].items() if value is not None}
    if "age" in case["features"]:
        args["context_feature_columns"] = [fc.numeric_column("age")]
    if "wt" in case["features"]:
        args["weight_column"] = "wt"
    args.setdefault("optimizer", optax.sgd(case["learning_rate"]))
    initial = {name: np.float32(value) for name, value in case["initial"].items()}
    return RNNClassifier(
        steps,
        label_vocabulary=case["label_vocabulary"],
        config=QUIET,
        warm_start_from=initial,
        **args,
    )


def batch_of(case):
    features = dict(case["features"])
    for name in ("age", "wt"):
        if name in features:
            features[name] = np.float32(features[name])
    return features, np.array(case["labels"])


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_training_follows_the_recorded_one(case):
    assert_follows(model_of(case), batch_of(case), case)
