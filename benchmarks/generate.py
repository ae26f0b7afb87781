"""The generation pipeline: how near it comes to what a server can give, what the filters let through, how fast the rest is.

    python benchmarks/generate.py overhead [--json]   requests a second: bare concurrent ones, and the pipeline's, on one loopback server
    python benchmarks/generate.py truth [--json]      the tiny teacher on three seeds of the synthetic world, each filter beside the truth
    python benchmarks/generate.py store [--json]      records a second and memory of everything but teacher and judge
"""
import argparse, http.client, json, multiprocessing as mp, resource, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
from common import machine, show

def slots(n, seconds, ready):
    "A server with `n` places that takes so long for each request; its URL goes through the pipe."
    import threading
    from tiny_server import serve
    free = threading.Semaphore(n)
    def answer(body):
        with free: time.sleep(seconds)
        return "<observation>I see it.</observation> <think>So it is.</think><answer>2</answer>", False, 1100, 40
    with serve(answer) as url:
        ready.send(url)
        time.sleep(3600)

def bare(url, bodies, workers):
    "Seconds for requests made ready beforehand, over kept connections."
    host, port = url.split("/")[2].split(":")
    local = {}
    def one(body):
        import threading
        c = local.setdefault(threading.get_ident(), http.client.HTTPConnection(host, int(port)))
        c.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        return json.loads(c.getresponse().read())
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool: list(pool.map(one, bodies))
    return time.perf_counter() - start

def piped(url, records, media, workers):
    "Seconds for the pipeline over the same records: clips read, replies cached and stored, traces checked, observations judged by the oracle."
    from videop2r.engine.remote import Cache, OpenAIChat
    from videop2r.cot import SHORT
    from videop2r.tools.pipeline import ChatTeacher, generate
    from videop2r.judge import ORACLE
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        teacher = ChatTeacher(OpenAIChat("tiny", url, max_tokens=64, cache=Cache(f"{out}/replies.db")), frames=8, workers=workers)
        made = generate(records, media, teacher, ORACLE, out, prompt=SHORT, how="lenient", quiet=True)
        assert made.steps["written"] == len(records), made.lost
        return time.perf_counter() - start

def overhead(workers=16):
    "One row for each speed of the server, eight rounds of its places at least."
    from videop2r.cot import SHORT
    from videop2r.tools.pipeline import ChatTeacher
    from videop2r.world import make_records
    from videop2r.engine.remote import OpenAIChat
    rows, media = [], tempfile.mkdtemp()
    for latency in (1.6, .8, .4, .2, .1):
        n = workers * max(8, round(4 / latency))
        records = list(make_records(media, n, "overhead"))
        teacher = ChatTeacher(OpenAIChat("tiny", "http://127.0.0.1:1/v1"), frames=8)
        bodies = [json.dumps(dict(model="tiny", messages=teacher.message(r, media, SHORT), temperature=0, max_tokens=64)) for r in records]
        here, there = mp.Pipe()
        server = mp.get_context("spawn").Process(target=slots, args=(workers, latency, there), daemon=True)
        server.start()
        url = here.recv()
        bare(url, bodies[:workers], workers), piped(url, records[:workers], media, workers)
        a, b = bare(url, bodies, workers), piped(url, records, media, workers)
        server.kill()
        rows.append(dict(benchmark="overhead", places=workers, seconds_a_reply=latency, server_limit=workers / latency, bare_per_second=n / a, pipeline_per_second=n / b, ratio=a / b))
    return rows

def truth(n=300, seeds=(0, 1, 2)):
    "One row for each seed, way of reading and judge: what each filter let through and how much of it was bad, what it stopped and how much of it was good."
    from videop2r.cot import SHORT
    from videop2r.tools.pipeline import LocalTeacher, generate, Leaks
    from videop2r.judge import ORACLE, base_judge
    from videop2r.model import Policy
    from videop2r.engine.scenes import World
    from videop2r.world import make_records, samples
    folder, rows = samples(ROOT / "data_samples"), []
    teacher = LocalTeacher.load(folder / "teacher", frames=8, limit=80, batch=64)
    judges = [ORACLE, base_judge(Policy.load(folder / "base"))]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as media:
            records = list(make_records(media, n, f"truth{seed}", World(distractors=2, brief=.05)))
            made = generate(records, media, teacher, ORACLE, f"{media}/run", prompt=SHORT, how="lenient", quiet=True)
            outputs = {r["problem_id"]: r["output"] for r in made.rejected} | {r.problem_id: r.output for r in made.kept}
        for how, judge in ((h, j) for h in ("lenient", "faithful") for j in judges):
            found = Leaks.of(records, outputs, judge, how=how)
            cells = {f"{k} {c}": v[c] for k, v in found.items() for c in ("through", "bad", "stopped", "good")}
            rows.append(dict(benchmark="truth", seed=seed, records=made.steps["records"], template=made.steps["template"], reading=how, judge=judge.name, **cells))
    return rows

class Free:
    "A teacher that takes no time."
    settings, price, limit = dict(name="free"), (0., 0.), 64
    def __init__(self, text): self.text = text
    def __call__(self, records, media, prompt, save):
        from videop2r.engine.remote import Reply
        for r in records:
            save(r, x := Reply(self.text, tokens_out=600))
            yield r, x

def store(n=20_000):
    "One row: a run over records of multiple choice with traces of 500 words, and the run that finds it finished."
    from videop2r.cot import render
    from videop2r.data import Record, write_jsonl
    from videop2r.tools.pipeline import generate
    from videop2r.judge import Judge, Verdict
    folder = Path(tempfile.mkdtemp())
    write_jsonl((Record(str(i), f"Which way does thing {i} move over there?", "multiple choice", "video", f"v/{i}.mp4", "<answer>B</answer>", ["A. left", "B. right"]) for i in range(n)), folder / "r.jsonl")
    args = folder / "r.jsonl", folder, Free(render("seen " * 220, "thought " * 280, "B")), Judge(lambda r, o: Verdict(True, "it does"), "yes"), folder / "run"
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        made = generate(*args, quiet=True)
        seconds.append(time.perf_counter() - start)
    assert made.steps["judge"] == n
    return [dict(benchmark="store", records=n, per_second=n / seconds[0], again_per_second=n / seconds[1], peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)]

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("overhead", "truth", "store"))
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    show(globals()[a.what](), a.json, machine("torch", "openai"))
