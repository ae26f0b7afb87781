"""Check that nbdev-export, nbdev-clean and the README script change nothing; name what they change and put it back."""
import subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def tree():
    "Every notebook and picture, exported module and the README, with its bytes."
    files = [*ROOT.glob("nbs/**/*.ipynb"), *ROOT.glob("nbs/images/*"), *ROOT.glob("videop2r/**/*.py"), ROOT / "README.md"]
    return {f: f.read_bytes() for f in files if ".ipynb_checkpoints" not in f.parts and f.exists()}

def main():
    before = tree()
    bin = Path(sys.executable).parent
    for command in ([bin / "nbdev-export"], [bin / "nbdev-clean"], [sys.executable, "scripts/readme.py"]): subprocess.run(command, cwd=ROOT, check=True)
    after = tree()
    changed = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    for f in changed: f.write_bytes(before[f]) if f in before else f.unlink()
    if changed: sys.exit("not up to date: " + ", ".join(str(f.relative_to(ROOT)) for f in changed) + "; run nbdev-export, nbdev-clean and make readme")
    print(f"export, clean and readme change none of {len(after)} files")

if __name__ == "__main__": main()
