"""How the cost of one update grows with frames and with the size of the group: ours, TRL's, and the bound, as a plot.

`update.py`'s two ways, TRL's at a micro-batch of 1 and ours at a response at a time, on the same model with one layer in the tower and one in the language model, so that 64 frames take seconds; 128 tokens to a frame pair,
responses of 450 to 830 tokens. Frames vary at a group of 8, groups at 16 frames. The bound is TRL's seconds over the ratio of multiply-adds.
"""
import argparse, json, sys
from pathlib import Path
import eighth
from common import machine, show
from eighth import Case, clocked, model, padded_cost, shared_cost, spawn
from update import ours, peer

SECONDS = (1, 2, 5, 10, 20, 50)

def few(layers=1):
    "Take layers away from the model and from its costs."
    eighth.LAYERS, eighth.V_LAYERS = layers, layers

def case_of(frames, g): return Case(frames, 128, tuple(450 + 380 * i // (g - 1) for i in range(g)))

def work(spec):
    few()
    m, case = model(), case_of(spec["frames"], spec["g"])
    gradient_of = peer(m, case, 1, False) if spec["who"] == "trl" else ours(m, case, 1, "nothing")
    def run():
        m.zero_grad()
        gradient_of()
    clocked(run, spec)

def rows(a):
    for frames, g in dict.fromkeys([(f, 8) for f in a.frames] + [(16, g) for g in a.groups]):
        case = case_of(frames, g)
        took = {who: min(spawn(__file__, who=who, frames=frames, g=g, threads=1, repeat=a.repeat)["seconds"] for _ in range(a.rounds)) for who in ("trl", "ours")}
        row = dict(frames=frames, g=g, prompt=case.prompt, trl=took["trl"], ours=took["ours"], times_trl=took["trl"] / took["ours"], bound=padded_cost(case) / shared_cost(case))
        if a.verbose: print(row, file=sys.stderr, flush=True)
        yield {**row, "of_bound": row["times_trl"] / row["bound"]}

def plot(found, path):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth"})
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for ax, key, title, part in ((axes[0], "frames", "frames, group of 8", [r for r in found if r["g"] == 8]), (axes[1], "g", "responses in a group, 16 frames", [r for r in found if r["frames"] == 16])):
        part = sorted(part, key=lambda r: r[key])
        x = [r[key] for r in part]
        for label, y, style in (("TRL", [r["trl"] for r in part], "o-"), ("bound", [r["trl"] / r["bound"] for r in part], "k:"), ("ours", [r["ours"] for r in part], "s-")): ax.plot(x, y, style, label=label)
        ax.set(xlabel=title, xscale="log", yscale="log", xticks=x, xticklabels=x, yticks=SECONDS, yticklabels=SECONDS)
        ax.minorticks_off()
        ax.margins(.12)
        for r in part: ax.annotate(f"{r['times_trl']:.1f}×", (r[key], r["ours"]), xytext=(0, -14), textcoords="offset points", ha="center", fontsize=8)
    axes[0].set(ylabel="seconds an update")
    axes[0].legend(frameon=False)
    fig.tight_layout()
    fig.savefig(path, metadata=dict(Date=None))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64])
    p.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16])
    p.add_argument("--repeat", type=int, default=2)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--out", default=Path(__file__).with_suffix(".svg"), help="where the plot goes")
    for name in ("verbose", "json"): p.add_argument(f"--{name}", action="store_true")
    a = p.parse_args()
    found = list(rows(a))
    plot(found, a.out)
    show(found, a.json, dict(**machine("torch", "transformers", "trl"), threads=1, layers=1))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]: work(json.loads(sys.argv[2]))
    else: main()
