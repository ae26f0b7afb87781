"Every lesson of parts 2 and 3 lights its box, has a cell to play in, and says what comes next; what it plays with asserts nothing."
import json, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(p for part in ("2_seeing", "3_training") for p in (ROOT / "nbs" / part).glob("*.ipynb"))

@pytest.mark.parametrize("book", LESSONS, ids=lambda p: p.stem)
def test_opening_play_and_ending(book):
    cells = [(c["cell_type"], "".join(c["source"]), c) for c in json.loads(book.read_text(encoding="utf-8"))["cells"]]
    kinds, sources = [kind for kind, _, _ in cells], [source for _, source, _ in cells]
    assert "pipeline(" in sources[1] and cells[1][2]["metadata"]["jupyter"]["source_hidden"]
    play = next(i for i, source in enumerate(sources) if kinds[i] == "markdown" and re.search("^## Play", source, re.M))
    assert kinds[play + 1] == "code" and not re.search(r"^\s*(assert |test_\w+\(|with expect_fail|#\| export)", sources[play + 1], re.M)
    assert cells[play + 1][2]["outputs"], "the play cell shows nothing"
    last = [source for kind, source in zip(kinds, sources) if kind == "markdown"][-1]
    link = re.search(r"Next: \[[^\]]+\]\(([^)]+)\)", last)
    assert link and (book.parent / link[1]).exists()

def test_the_lessons_follow_each_other():
    "Next leads to the next lesson, from the first of part 2 to the last of part 3."
    for book, following in zip(LESSONS, LESSONS[1:]):
        last = [c for c in json.loads(book.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"][-1]
        link = re.search(r"Next: \[[^\]]+\]\(([^)]+)\)", "".join(last["source"]))[1]
        assert (book.parent / link).resolve() == following
