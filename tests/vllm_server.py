"A real vLLM on this machine's CPU, for the tests that `make engines` runs."
import os, signal, subprocess, time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
from team import free_port

FLAGS = "--dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 16 --served-model-name base --logprobs-mode processed_logprobs".split()
OURS = "--enable-lora --max-lora-rank 16 --max-loras 2 --trust-request-mm-kwargs".split() # what the project asks for, besides
OWN = dict(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS="1", VLLM_NO_USAGE_STATS="1")

class Running:
    "A server that has been started; it may not answer yet."
    def __init__(self, python, folder, log, flags=OURS, **env):
        self.log, port = Path(log), free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port), *FLAGS, *flags]
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        self.began = time.monotonic()
        with open(log, "w") as said: self.process = subprocess.Popen(command, env={**kept, **OWN, **env}, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)

    def answers(self, patience=1200):
        "Seconds from its start to its first answer; `RuntimeError` with what it said where there is none."
        while time.monotonic() - self.began < patience and self.process.poll() is None:
            try: urlopen(self.url.replace("/v1", "/health"), timeout=5).close()
            except (URLError, OSError): time.sleep(1)
            else: return time.monotonic() - self.began
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-2000:]}")

    def kill(self):
        "End it and what it has started, at once."
        try: os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        self.process.wait()

@contextmanager
def running(*given, **more):
    server = Running(*given, **more)
    try: yield server
    finally: server.kill()
