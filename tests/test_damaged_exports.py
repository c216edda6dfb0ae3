"""Exports that are not as they were written: refused, never believed, never a crash."""

import os
import random
import shutil
from pathlib import Path

import pytest
from exporting import rewritten

import canned
import estimator as est
import feature_columns as fc


@pytest.fixture
def whole(exported):
    """Features, and the export of a model of them."""
    return exported("custom")[1:]


def damage(directory, rng):
    """Changes a file somehow, and says how."""
    names = sorted(os.listdir(directory))
    path = Path(directory) / rng.choice(names)
    data = path.read_bytes()
    what = rng.choice(["flip", "cut", "remove", "swap", "empty", "longer", "text"])
    if what == "flip":
        place = rng.randrange(len(data))
        changed = bytes([data[place] ^ (1 << rng.randrange(8))])
        path.write_bytes(data[:place] + changed + data[place + 1 :])
    elif what == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif what == "remove":
        path.unlink()
    elif what == "swap":
        other = Path(directory) / rng.choice(names)
        path.write_bytes(other.read_bytes())
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "longer":
        path.write_bytes(data + rng.randbytes(5))
    else:
        path.write_bytes(b'{"sha256": 3, "body": []}')
    return f"{what} {path.name}"


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_export_is_refused_or_answers_as_before(whole, tmp_path, count):
    features, path = whole
    wanted = est.export.load(path)(features, "classify")
    rng = random.Random(0)
    refused = 0
    for i in range(count):
        directory = tmp_path / str(i)
        shutil.copytree(path, directory)
        what = damage(directory, rng)
        try:
            loaded = est.export.load(directory)
            given = loaded(features, "classify")
        except est.export.DamagedExportError:
            refused += 1
        else:
            assert (given["scores"] == wanted["scores"]).all(), what
        shutil.rmtree(directory)
    assert refused > count / 3


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["signatures"]["serving_default"]["modules"][0].update(file="../../passwd"),
        lambda m: m["signatures"]["serving_default"]["modules"][0].update(file="/etc/passwd"),
        lambda m: m.update(used=[99]),
        lambda m: m["checks"].append([99, {"recipe": "NoMissingNumbers", "key": "x"}]),
        lambda m: m["signatures"]["serving_default"].update(modules=[]),
        lambda m: m["signatures"]["serving_default"]["outputs"][0].update(arrays=2),
        lambda m: m.update(host=[{"recipe": "Lookup", "vocabulary": {"tuple": []}}]),
        lambda m: m.update(host=[{"recipe": "NoSuchRecipe"}]),
        lambda m: m.update(variables=["no/such"]),
        lambda m: m.update(inputs=3),
        lambda m: m.pop("signatures"),
    ],
)
def test_a_manifest_that_lies_is_refused(whole, tmp_path, change):
    features, path = whole
    directory = rewritten(path, tmp_path / "export", lambda m: change(m["modes"]["infer"]))
    with pytest.raises(ValueError, match=r"is not as an export was written|No recipe is regis"):
        est.export.load(directory)(features)


def test_modules_of_others_are_never_imported(whole, tmp_path):
    features, path = whole
    (tmp_path / "evil.py").write_text("raise SystemExit")
    names = ["evil", "os", "estimator.no_such", "estimator..evil", 3]
    directory = rewritten(path, tmp_path / "export", lambda m: m.update(modules=names))
    est.export.load(directory)(features)


@pytest.mark.parametrize("is_hidden", [False, True])
def test_an_export_that_asks_for_a_file_is_refused(tmp_path, is_hidden):
    words = tmp_path / "words.txt"
    words.write_text("clerk\nnurse\n")
    job = fc.categorical_column_with_vocabulary_list("job", ["clerk", "nurse"])
    asks = fc.categorical_column_with_vocabulary_file("job", words)
    estimator = canned.LinearClassifier([job], tmp_path / "model")
    estimator.train(lambda: ({"job": ["clerk"]}, [1]), steps=1)

    def change(manifest):
        (held,) = manifest["modes"]["infer"]["host"]
        assert held["column"]["recipe"] == "VocabularyListColumn"
        held["column"] = est.to_json(asks)
        if is_hidden:
            crossed = est.to_json(fc.crossed_column([asks, "x"], 9))
            held["column"] = crossed | {"crossed": [est.to_json(asks), "x"]}  # no tuple, a list

    path = estimator.export_saved_model(tmp_path / "exports").decode()
    directory = rewritten(path, tmp_path / "export", change)
    with pytest.raises(est.export.DamagedExportError, match="that an export may hold"):
        est.export.load(directory)


def test_where_there_is_no_export_those_that_are_near_are_named(whole, tmp_path):
    _, path = whole
    shutil.copytree(path, tmp_path / "model" / "export" / "best" / "1700000000")
    for wrong in (tmp_path / "model", tmp_path / "model" / "export" / "bst"):
        with pytest.raises(est.export.DamagedExportError, match=r"some in .*/export/best"):
            est.export.load(wrong)
    with pytest.raises(est.export.DamagedExportError, match="There is no export in"):
        est.export.load(tmp_path / "none" / "none")
    assert "serving_default" in repr(est.export.load(tmp_path / "model" / "export" / "best"))
