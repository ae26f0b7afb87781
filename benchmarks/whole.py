"""Whole weights: a demo's group sampled, and read again as a reference would, with one product a layer and with PEFT's several over four bits.

The embedded base in NF4 with a LoRA adapter of rank 16, 16 prompts × 8 responses of at most 96 tokens, the same luck for both; one thread, the processor's seconds, ways in turn, medians of all rounds.
"""
import argparse, contextlib, statistics, time
import torch
from common import ROOT, machine, show
import videop2r.model
from videop2r.cot import SHORT
from videop2r.data import read_jsonl
from videop2r.engine.reading import to_prompts
from videop2r.engine.whole import whole_weights
from videop2r.model import Policy, add_lora, load
from videop2r.rollout import read_reference
from videop2r.tokens import Coder
import videop2r.sampling # gives a Policy its `sample`

SAMPLES, G = ROOT / "data_samples", 8
WAYS = {"one product a layer": whole_weights, "PEFT's, over four bits": lambda model: contextlib.nullcontext()}

def prepared():
    coder = Coder.load(SAMPLES / "base")
    policy = Policy(add_lora(load(SAMPLES / "teacher", nf4=True), coder.family), coder) # its replies have a trace's length
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight, std=.02)
    prompts = to_prompts(coder, read_jsonl(SAMPLES / "train.jsonl")[:16], SAMPLES, SHORT, 8)[0]
    with torch.no_grad(): return policy, prompts, policy.see([prompt.visual for prompt in prompts])

def clocked(work):
    start = time.process_time()
    return work(), time.process_time() - start

def rounds(n):
    "way -> seconds of sampling, seconds of the reference."
    policy, prompts, features = prepared()
    took = {way: ([], []) for way in WAYS}
    for _ in range(n):
        for way, how in WAYS.items():
            videop2r.model.whole_weights = how
            luck = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
            drawn, seconds = clocked(lambda: policy.sample(prompts, G, 96, features=features, generator=luck))
            drawn.g = G # what a rollout knows beside its samples
            _, more = clocked(lambda: read_reference(policy, prompts, features, drawn, "policy", 1., micro=16))
            for kept, value in zip(took[way], (seconds, more)): kept.append(value)
    return took

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each way (7)")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {way: [statistics.median(part) for part in parts] for way, parts in rounds(args.rounds).items()}
    slow = list(found.values())[-1]
    rows = [{"": way, "sampling, s": a, "×": slow[0] / a, "reference, s": b, "× ": slow[1] / b} for way, (a, b) in found.items()]
    show(rows, args.json, machine("torch", "peft", "bitsandbytes"))
