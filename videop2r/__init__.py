"""See first, think second: VideoP2R and PA-GRPO, step by step."""
import os as _os

# Threads that wait sleep, or one busy core stops them all; read when torch is loaded, the user's own word first.
if "GOMP_SPINCOUNT" not in _os.environ: _os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

def __getattr__(name):
    if name != "__version__": raise AttributeError(f"module 'videop2r' has no attribute {name!r}")
    from importlib.metadata import version
    return version("videop2r")
