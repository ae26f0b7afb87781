"The commands of part 5, most of which want a GPU and are not run here, are ones that the program knows."
import json, re, shlex
from pathlib import Path
import pytest
from videop2r.tools.cli import Command

BOOKS = sorted(Path(__file__).resolve().parent.parent.glob("nbs/5_yours/*.ipynb"))

def commands(book):
    "Arguments of every `videop2r` in a shell line of a cell or in a bash block."
    text = "\n".join("".join(c["source"]) for c in json.loads(book.read_text())["cells"])
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [re.match(r"!?(?:videop2r|accelerate launch .*? -m videop2r\.tools\.cli) (.*)", l) for l in lines]
    return [shlex.split(m[1], comments=True) for m in found if m]

@pytest.mark.parametrize("book", BOOKS, ids=lambda p: p.stem)
def test_commands_are_known(book):
    for args in commands(book): assert Command.read(args)[1]

def test_a_page_of_one_gpu_has_every_stage():
    book = next(b for b in BOOKS if b.stem == "2_one_gpu")
    assert {a[0] for a in commands(book)} == {"plan", "rehearse", "data", "generate", "sft", "rl"}

@pytest.mark.parametrize("name", ("2_one_gpu", "3_several_gpus"))
def test_what_was_not_run_has_no_outputs(name):
    book = next(b for b in BOOKS if b.stem == name)
    cells = json.loads(book.read_text())["cells"]
    assert "skip_exec: true" in "".join(cells[0]["source"]) and not any(c.get("outputs") for c in cells)
