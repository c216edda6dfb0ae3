"""The tuned allocator: opt in, for the whole process, and nothing where there is no glibc."""

import subprocess
import sys

import pytest
from models import batches, quiet

import estimator as est
from estimator import allocator


class Libc:
    """Stands in for the C library: notes what is set, refuses what it is told to."""

    def __init__(self, refused=()):
        self.refused = refused
        self.asked = []

    def mallopt(self, parameter, value):
        self.asked.append((parameter, value))
        return int(value not in self.refused)


@pytest.fixture
def libc(monkeypatch):
    """Keeps the allocator of the tests' own process as it is."""
    fake = Libc()
    monkeypatch.setattr(allocator, "_glibc", lambda: fake)
    return fake


def test_an_estimator_tunes_the_allocator_only_when_asked(model_dir, libc):
    quiet(model_dir)
    assert libc.asked == []
    quiet(model_dir, allocator="tuned").train(lambda: batches(1))
    assert libc.asked == [(-3, 2**30), (-1, 2**31 - 1)]


def test_an_older_glibc_is_given_the_largest_threshold_it_takes(libc):
    libc.refused = (2**30,)
    assert allocator.tune()
    assert libc.asked == [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]


def test_the_trim_threshold_is_never_set_alone(libc, caplog):
    """Alone it would freeze the other at 128 KiB, and make everything slower."""
    libc.refused = (2**30, 2**25)
    assert not allocator.tune()
    assert {parameter for parameter, _ in libc.asked} == {-3}
    assert "glibc refuses mallopt(-3, ...)" in caplog.text


def test_without_glibc_nothing_is_done(monkeypatch, model_dir):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    assert not allocator.tune()
    quiet(model_dir, allocator="tuned").train(lambda: batches(1))


@pytest.mark.skipif(allocator._glibc() is None, reason="there is no glibc here")
def test_tuned_large_blocks_are_used_again_without_new_pages():
    """The system counts the pages that it had to clear: glibc's default gives 16 MiB back."""
    code = (
        "import resource, sys\n"
        "from estimator import allocator\n"
        "if sys.argv[1] == 'tuned': assert allocator.tune()\n"
        "def once(): bytearray(2**24)\n"
        "once()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): once()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {}
    for how in ("tuned", "default"):
        command = [sys.executable, "-c", code, how]
        faults[how] = int(subprocess.check_output(command, text=True))
    assert faults["tuned"] < 4096  # 20 x 4096 pages of 4 KiB, once more each time
    assert faults["tuned"] * 10 < faults["default"]


def test_another_word_than_tuned_is_refused():
    with pytest.raises(ValueError, match="allocator must be \"tuned\" or None, got 'fast'"):
        est.RunConfig(allocator="fast")
