"Tests that take long and whose kind a shorter one holds too: `make storm` runs them, `make test` says that they were not run."
import os
import pytest

LONG = bool(os.environ.get("VIDEOP2R_STORM"))
storm = pytest.mark.skipif(not LONG, reason="not run: long; make storm runs it")

def some(
    values, # of a parameter
    now,    # those that every run tests
):
    "Parameters of which the others wait for a storm."
    return [value if value in now else pytest.param(value, marks=storm) for value in values]
