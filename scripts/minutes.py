"""Measure a command and keep its minutes and gigabytes for the front page: `python scripts/minutes.py make test`."""
import json, os, subprocess, sys, time
from pathlib import Path
import psutil

KEPT = Path(__file__).resolve().parent.parent / "nbs" / "4_evidence" / "minutes.json"

def held(process):
    "Bytes that a process and its children hold now, what they share counted once where the system tells."
    def one(p):
        try: return getattr(p.memory_full_info(), "pss", None) or p.memory_info().rss
        except psutil.Error: return 0
    try: return sum(map(one, [process, *process.children(recursive=True)]))
    except psutil.Error: return 0

def measure(command):
    "Wall-clock minutes and the most gigabytes at any look; `CalledProcessError` where the command fails."
    start, most = time.time(), 0
    running = subprocess.Popen(command)
    process = psutil.Process(running.pid)
    while running.poll() is None:
        most = max(most, held(process))
        try: running.wait(min(5, .5 + (time.time() - start) / 60)) # a look at many processes takes time itself
        except subprocess.TimeoutExpired: pass
    if running.returncode: raise subprocess.CalledProcessError(running.returncode, command)
    return dict(minutes=round((time.time() - start) / 60, 2), gb=round(most / 1e9, 2), cores=os.cpu_count(), on=time.strftime("%Y-%m-%d"))

def main(command, kept=KEPT):
    if not command: sys.exit(f"give a command: {__doc__.split(': ')[1]}")
    found = measure(command)
    told = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    kept.write_text(json.dumps(told | {" ".join(command): found}, indent=1) + "\n", encoding="utf-8")
    print(f"{' '.join(command)}: {found['minutes']} minutes, {found['gb']} GB")

if __name__ == "__main__": main(sys.argv[1:])
