"""Death at a named write, before or after it: in a forked child, or `python kills.py COUNT POINT -- ARGS of videop2r`.

POINT is a number, from 1 (2k-1: before the k-th write; 2k: after it); COUNT a file that gets the name of each write."""
import gc, os, shutil, sys
from pathlib import Path

def _watched():
    "(holder, name) of every function through which something lasting is written."
    import torch
    from videop2r import data
    from videop2r.engine import files, remote, store, writing
    found = [(os, name) for name in ("replace", "rename", "unlink", "remove", "truncate", "rmdir", "mkdir")]
    found += [(files, "append"), (store, "append"), (torch, "save"), (shutil, "copy"), (remote.Cache, "put"), (data, "write_records"), (writing, "write_records")]
    try: from peft import PeftModel
    except ImportError: return found
    return found + [(PeftModel, "save_pretrained")]

def watch(point=None, log=None, below=None):
    "Count the writes, and die at one as by SIGKILL; only of paths below a folder where one is given."
    seen = [0]
    def told(args): return [str(a) for a in args if isinstance(a, (str, Path))]
    def step(what):
        seen[0] += 1
        if log: log.write(what + "\n"), log.flush()
        if seen[0] == point: os._exit(137)
    def watched(function, name):
        def call(*args, **kw):
            paths = told(args) + [str(getattr(args[0], "name", ""))] if args else []
            if below and name != "save_pretrained" and not any(str(below) in p for p in paths): return function(*args, **kw)
            what = f"{name} {' '.join(Path(p).name for p in told(args)[:2])}"
            step(f"before {what}")
            found = function(*args, **kw)
            step(f"after {what}")
            return found
        return call
    for holder, name in _watched(): setattr(holder, name, watched(getattr(holder, name), name))
    return seen

def forked(work, point=None, below=None):
    "Run `work` in a fork, killed at a point; its exit code: 137 where the kill came, 0 for the end, and how many writes there were."
    reader, writer = os.pipe()
    gc.collect()
    gc.freeze() # a clip's frame that only the child's collector frees waits there for threads that it has not
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reader)
            seen = watch(point, below=below)
            work()
            os.write(writer, str(seen[0]).encode())
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally: os._exit(code)
    os.close(writer)
    gc.unfreeze()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader) as said: return code, int(said.read() or 0)

def main():
    count, point, _, *args = sys.argv[1:]
    from videop2r.tools.cli import main as command
    with open(count, "a") as log:
        watch(int(point), log)
        sys.exit(command(args))

if __name__ == "__main__": main()
