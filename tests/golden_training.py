"""What golden tests of canned models share: they train, evaluate, predict as was recorded."""

import numpy as np
import pytest

CLOSE = {"rtol": 5e-5, "atol": 5e-5}


def assert_follows(model, batch, case):
    """Trains six steps on a batch; evaluations, weights and answers must be those of the case."""
    for step in case["evaluate_at_step"]:
        if int(step) > 0:
            model.train(lambda: batch, max_steps=int(step))
    # Training has saved the first values, too: they need not be made for an evaluation alone.
    evaluated = zip(case["evaluate_at_step"].items(), model.all_checkpoints(), strict=True)
    for (at, expected), path in evaluated:
        results = model.evaluate(lambda: batch, checkpoint_path=path)
        assert results.keys() == expected.keys()
        assert results == pytest.approx(expected, rel=5e-5, abs=5e-5), at
    assert {*model.get_variable_names()} - {"global_step"} == {*case["after_6_steps"]}
    for name, value in case["after_6_steps"].items():
        np.testing.assert_allclose(model.get_variable_value(name), value, err_msg=name, **CLOSE)
    answers = list(model.predict(lambda: batch[0]))
    assert len(answers) == len(case["predictions"])
    for answer, expected in zip(answers, case["predictions"], strict=True):
        assert answer.keys() == expected.keys()
        for name, value in expected.items():
            if "classes" in name:
                assert np.array(answer[name]).tolist() == value
            else:
                np.testing.assert_allclose(answer[name], value, err_msg=name, **CLOSE)
