"An environment of its own for a package that wants other versions than ours: made once, or not run and said so."
import shutil, subprocess, sys
from pathlib import Path

def not_run(command, why):
    "End with exit code 3: nothing was checked."
    print(f"make {command}: not run: {why}", file=sys.stderr)
    sys.exit(3)

def without_operators(python):
    "Take from torchvision what only its own build of torch has."
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    Path(found, "torchvision/_meta_registrations.py").write_text("")

def environment(
    command, # of make, for messages
    home,    # folder
    what,    # name and version
    fill,    # (pip, python) -> None, where pip takes the words after `pip`
) -> str:    # its Python
    "The environment in a folder; one that was not finished is made anew."
    python = home / "bin/python"
    if (home / "whole").exists(): return str(python)
    shutil.rmtree(home, ignore_errors=True)
    def pip(command, *words): subprocess.run([python, "-m", "pip", command, "--quiet", *words], check=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        fill(pip, python)
    except subprocess.CalledProcessError as e: not_run(command, f"{what} cannot be installed here ({e})")
    (home / "whole").touch()
    return str(python)
