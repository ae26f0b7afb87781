"A busy machine: what OpenMP's threads do while they wait is set before torch reads it, unless the user has said."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

def word(**given):
    "What torch finds in the environment when the command loads it."
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    code = "import sys, videop2r.tools.cli; assert 'torch' not in sys.modules; import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run([sys.executable, "-c", code], env={**own, **given, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    return done.stdout.strip()

@pytest.mark.parametrize("given, wanted", [({}, "PASSIVE"), (dict(OMP_WAIT_POLICY="ACTIVE"), "ACTIVE"), (dict(GOMP_SPINCOUNT="99"), "None")])
def test_threads_that_wait_sleep_unless_the_user_has_said(given, wanted): assert word(**given) == wanted

def test_the_tests_set_it_too(): assert os.environ.get("OMP_WAIT_POLICY") or os.environ.get("GOMP_SPINCOUNT")

def test_the_makefile_sets_it_for_kernels_unless_the_user_has_said():
    for target in ("test", "lab"):
        said = subprocess.run(["make", "-n", target, "STAMP="], cwd=ROOT, capture_output=True, text=True).stdout
        assert "OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}" in said
