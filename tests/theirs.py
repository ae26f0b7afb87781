"Batches of the families' own processors, from one process that stays: a start of transformers takes seconds."
import json, subprocess, sys
from functools import cache
from pathlib import Path
import numpy as np, pytest

TORCHVISION = Path(sys.prefix) / "torchvision"

@cache
def _child():
    command = [sys.executable, str(Path(__file__).with_name("family_batch.py")), str(TORCHVISION)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) # ends with its input

def batches(
    family, # or `saved`
    folder, # of the tokenizer, or of the whole checkpoint
    rows,   # name -> rows of a batch, as in `family_batch.one`
    out,    # an empty folder
):
    "Their arrays, by name of the batch and of the input."
    if not TORCHVISION.exists(): pytest.skip(f"torchvision is not in {TORCHVISION.name}/ of the environment: pip install --no-deps --target .venv/torchvision torchvision")
    (out / "cases.json").write_text(json.dumps(rows))
    child = _child()
    print(json.dumps([family, str(folder), str(out / "cases.json"), str(out / "batch.npz")]), file=child.stdin, flush=True)
    said = child.stdout.readline()
    assert said == "null\n", said and json.loads(said)
    return np.load(out / "batch.npz")
