"""Feature columns answer what TensorFlow answered, in 67 recorded cases."""

import numpy as np
import pytest
from column_models import GOLDEN, columns_of, features_of, run

each_case = pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])


@each_case
def test_columns_answer_as_tensorflow_did(case, tmp_path):
    answer, variables = run(case, columns_of(case, tmp_path), features_of(case))
    shapes = {name: list(value.shape) for name, value in variables.items()}
    assert shapes == case["variables"]
    if case["op"] != "sequence_input_layer":
        np.testing.assert_allclose(answer, case["expect"]["output"], rtol=1e-5, atol=1e-6)
        return
    steps, lengths = answer
    np.testing.assert_array_equal(lengths, case["expect"]["length"])
    expected = np.array(case["expect"]["output"])
    true = expected.shape[1]
    np.testing.assert_allclose(steps[:, :true], expected, rtol=1e-5, atol=1e-6)
    shortest = int(np.argmin(lengths))
    behind = np.broadcast_to(expected[shortest, -1], steps[:, true:].shape)
    if lengths[shortest] < true:  # what TensorFlow padded with
        np.testing.assert_array_equal(steps[:, true:], behind.astype(np.float32))
