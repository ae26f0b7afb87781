"""Hold lmms-eval's own scoring functions beside our rule of that name, and run our model by its command: `make parity`. Its environment, some 2.5 GB in .venv/lmms, is made once; VIDEOP2R_LMMS names the Python of another.
Exit code 3 and a line where it cannot be installed: then nothing was checked."""
import os, subprocess, sys
from pathlib import Path
from apart import environment, without_operators

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv/lmms"
VERSION, TORCH = "0.7.3", "2.13.0"

def fill(pip, python):
    "lmms-eval and this package, over a CPU build of torch."
    pip("install", f"torch=={TORCH}")
    pip("install", f"torch=={TORCH}", f"lmms-eval=={VERSION}")
    pip("install", f"torch=={TORCH}", "filelock<4", "--editable", str(ROOT)) # filelock 4 has not what lmms-eval 0.7.3 takes from it
    broken = subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode
    if broken: without_operators(python) # one built for CUDA beside a torch that was not

def installed():
    "Python of an environment with lmms-eval and what this package needs beside it."
    return os.environ.get("VIDEOP2R_LMMS") or environment("parity", HOME, f"lmms-eval {VERSION}", fill)

def main():
    env = dict(os.environ, VIDEOP2R_LMMS=installed(), PYTHONPATH=str(ROOT))
    files = [str(ROOT / "tests" / name) for name in ("test_parity.py", "test_lmms.py")]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", *files], env=env, cwd=ROOT).returncode

if __name__ == "__main__": sys.exit(main())
