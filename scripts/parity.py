"""Hold lmms-eval's own scoring functions beside our rule of that name, and run our model by its command: `make parity`. Its environment, some 2.5 GB in .venv/lmms, is made once; VIDEOP2R_LMMS names the Python of another.
Exit code 3 and a line where it cannot be installed: then nothing was checked."""
import os, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv/lmms"
VERSION, TORCH = "0.7.3", "2.13.0"

def not_run(why):
    print(f"make parity: not run: {why}", file=sys.stderr)
    sys.exit(3)

def installed():
    "Python of an environment with lmms-eval and what this package needs beside it."
    if given := os.environ.get("VIDEOP2R_LMMS"): return given
    python = HOME / "bin/python"
    if (HOME / "whole").exists(): return str(python)
    shutil.rmtree(HOME, ignore_errors=True)
    def pip(*words): subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
        pip(f"torch=={TORCH}")
        pip(f"torch=={TORCH}", f"lmms-eval=={VERSION}")
        pip(f"torch=={TORCH}", "filelock<4", "--editable", str(ROOT)) # filelock 4 has not what lmms-eval 0.7.3 takes from it
    except subprocess.CalledProcessError as e: not_run(f"lmms-eval {VERSION} cannot be installed here ({e})")
    broken = subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode
    if broken: # a torchvision built for CUDA beside a torch that was not
        where = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip()
        Path(where, "torchvision/_meta_registrations.py").write_text("")
    (HOME / "whole").touch()
    return str(python)

def main():
    env = dict(os.environ, VIDEOP2R_LMMS=installed(), PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", str(ROOT / "tests/test_parity.py"), str(ROOT / "tests/test_lmms.py")], env=env, cwd=ROOT).returncode

if __name__ == "__main__": sys.exit(main())
