"Processes that share their work over gloo, as a launcher would start them."
import os, socket, subprocess
from concurrent.futures import ThreadPoolExecutor

def free_port():
    "A port that nobody listens on, as text."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])

def places(n):
    "What a launcher puts into the environment of n processes on one machine; rank and port are theirs alone."
    return dict(WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())

def on_two(call, env=os.environ):
    "Run a command in two processes, one thread each, on the CPU; both ends as `CompletedProcess`."
    env = {**env, **places(2), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    def one(rank): return subprocess.run([*map(str, call)], env={**env, "RANK": rank, "LOCAL_RANK": rank}, capture_output=True, text=True, timeout=900)
    with ThreadPoolExecutor(2) as pool: return list(pool.map(one, "01")) # both are read at once: neither waits with a full pipe

def check_both(ends):
    "Both ended well, or what they said."
    assert not any(end.returncode for end in ends), "\n".join(end.stderr for end in ends)
