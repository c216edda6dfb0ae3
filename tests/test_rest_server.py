"""python -m estimator serve: a process that answers, and takes up newer exports as they appear."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from models import quiet

import estimator as est

X = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two exports of a model, of steps 1 and 2, and what each answers."""
    root = tmp_path_factory.mktemp("exports")
    estimator = quiet(str(root / "model"))
    made = []
    for _ in range(2):
        estimator.train(lambda: ({"x": X}, np.ones(6, np.float32)), steps=1)
        path = Path(estimator.export_saved_model(root / "exports").decode())
        made.append((path, est.export.load(path)({"x": X})["y"].tolist()))
    return made


def copied(path, directory, name):
    """Puts a copy of an export under another name, in one go."""
    shutil.copytree(path, directory / "aside")
    os.rename(directory / "aside", directory / name)
    return directory / name


def test_the_newest_export_is_served_as_soon_as_it_is_there(exports, tmp_path, caplog):
    (old, before), (new, after) = exports
    copied(old, tmp_path, "1700000001")

    def answers(model):
        return model.current.ask({"x": X})["y"].tolist()

    with est.export.ServedModel(tmp_path, reload_secs=None) as model:
        assert (model.current.number, answers(model)) == ("1700000001", before)
        model.refresh()
        held = model.current
        damaged = copied(new, tmp_path, "1700000002")
        (damaged / "variables.safetensors").write_bytes(b"")
        for _ in range(2):
            model.refresh()
            assert model.current is held
        assert caplog.text.count("1700000002 is not served") == 1
        # What is on its way is tried again when it has changed.
        shutil.copy(new / "variables.safetensors", damaged)
        with caplog.at_level(logging.INFO):
            model.refresh()
        assert "is served now, step 2" in caplog.text
        assert (model.current.number, answers(model)) == ("1700000002", after)
        assert held.ask({"x": X})["y"].tolist() == before
        # One that is taken back is served no longer; and the last one is, although it is gone.
        shutil.rmtree(tmp_path / "1700000002")
        model.refresh()
        assert answers(model) == before
        shutil.rmtree(tmp_path / "1700000001")
        model.refresh()
        assert answers(model) == before


def test_an_export_whose_answers_have_changed_is_not_served(exports, tmp_path):
    path = copied(exports[0][0], tmp_path, "1700000001")
    manifest = json.loads((path / "export.json").read_text())["body"]
    weights = est.export.load(path).variables
    weights["line/bias"] = weights["line/bias"] + 1
    from estimator import export_files

    data = export_files.weights_to_bytes(weights)
    del manifest["files"][export_files.WEIGHTS]
    export_files.write_file(str(path), export_files.WEIGHTS, data, manifest["files"])
    del manifest["format"]
    export_files.write_manifest(str(path), manifest)
    with pytest.raises(ValueError, match=r"answered .* when it was exported"):
        est.export.ServedModel(path)


def test_where_nothing_was_exported_there_is_nothing_to_serve(tmp_path):
    with pytest.raises(est.export.DamagedExportError, match="There is no export in"):
        est.export.serve(tmp_path)


def test_a_place_that_is_taken_is_an_error(exports, tmp_path):
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="ddress already in use"),
    ):
        est.export.serve(exports[0][0], port=taken.getsockname()[1])


def asked(address, body=None, verb=""):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(address + verb, data, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_process_answers_many_at_once_until_it_is_told_to_end(exports, tmp_path):
    (old, before), (new, after) = exports
    copied(old, tmp_path, "1700000001")
    words = ["-m", "estimator", "serve", str(tmp_path), "--port", "0", "--reload-secs", "0.05"]
    server = subprocess.Popen(
        [sys.executable, *words, "--name", "line", "--max-rows", "6", "--max-bytes", "1000"],
        env={**os.environ, "PYTHONPATH": str(Path(est.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = server.stdout.readline()
        assert "Ctrl-C ends it" in told, server.communicate()
        address = next(word for word in told.split() if word.startswith("http")).rstrip(";")
        assert address.startswith("http://127.0.0.1:")
        assert asked(address)[1]["model_version_status"][0]["version"] == "1700000001"

        def row(i):
            body = {"instances": [{"x": X[i % 6].tolist()}]}
            status, given = asked(address, body, ":predict")
            return status, [answer["y"] for answer in given["predictions"]]

        with ThreadPoolExecutor(8) as pool:
            for i, (status, given) in enumerate(pool.map(row, range(60))):
                assert status == 200
                np.testing.assert_allclose(given, before[i % 6 : i % 6 + 1], 1e-6)
        copied(new, tmp_path, "1700000002")
        deadline = time.monotonic() + 30
        while asked(address)[1]["model_version_status"][0]["version"] != "1700000002":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        np.testing.assert_allclose(row(3)[1], after[3:4], 1e-6)
        assert asked(address, {"instances": [{"x": [1, 2]}] * 7}, ":predict")[0] == 400
        assert asked(address, {"instances": [" " * 1000]}, ":predict")[0] == 413
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert "1700000002 is served now, step 2" in server.stderr.read()
    finally:
        server.kill()
        server.communicate()


def test_a_damaged_newest_export_does_not_hide_the_one_before(exports, tmp_path, caplog):
    (old, _), (new, _) = exports
    copied(old, tmp_path, "1700000001")
    damaged = copied(new, tmp_path, "1700000002")
    (damaged / "export.json").write_bytes(b"{}")
    model = est.export.ServedModel(tmp_path, reload_secs=None)
    assert model.current.number == "1700000001"
    assert "1700000002 is not served" in caplog.text
    os.remove(tmp_path / "1700000001" / "export.json")
    with pytest.raises(est.export.DamagedExportError, match="1700000002"):
        est.export.ServedModel(tmp_path, reload_secs=None)


def test_a_link_to_an_export_is_followed_anew(exports, tmp_path):
    (old, _), (new, _) = exports
    link = tmp_path / "current"
    link.symlink_to(old)
    model = est.export.ServedModel(link, reload_secs=None)
    assert (model.current.number, model.current.loaded.global_step) == (old.name, 1)
    link.unlink()
    link.symlink_to(new)
    model.refresh()
    assert (model.current.number, model.current.loaded.global_step) == (new.name, 2)


def test_an_export_that_is_replaced_under_its_name_is_read_anew(exports, tmp_path, caplog):
    (old, _), (new, after) = exports
    path = copied(old, tmp_path, "1700000001")
    model = est.export.ServedModel(tmp_path, reload_secs=None)
    shutil.copytree(new, path, dirs_exist_ok=True)
    model.refresh()
    assert model.current.ask({"x": X})["y"].tolist() == after
    held = model.current
    model.refresh()
    assert model.current is held
    copied(old, tmp_path, "1700000000")
    (path / "export.json").write_bytes(b"{}")
    for _ in range(2):
        model.refresh()
        assert model.current is held
    assert caplog.text.count("1700000001 is not served") == 1


SLOW = """
import sys, time
from estimator.command_line import main
from estimator.loaded_model import LoadedModel
run = LoadedModel.run
def slowly(self, request):
    time.sleep(0.5 if started else 0)
    return run(self, request)
LoadedModel.run = slowly
started = []
import estimator as est
def on_start(address):
    started.append(address)
    print("is at", address, flush=True)
limits = est.export.RequestLimits(rows=100_000)
est.export.serve(sys.argv[1], 0, name="line", limits=limits, threads=1, on_start=on_start)
"""


def test_what_has_been_asked_is_answered_before_the_end(exports):
    server = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(exports[0][0])],
        env={**os.environ, "PYTHONPATH": str(Path(est.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = server.stdout.readline().split()[-1]
        body = {"inputs": {"x": [[1.0, 2.0]] * 60_000}}  # the answer is larger than buffers are
        with ThreadPoolExecutor(4) as pool:
            asks = [pool.submit(asked, address, body, ":predict") for _ in range(4)]
            time.sleep(0.6)
            server.send_signal(signal.SIGTERM)
            assert [future.result()[0] for future in asks] == [200] * 4
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()
