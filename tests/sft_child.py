"""A process that fine-tunes the embedded model: python sft_child.py OUT MEDIA, asleep after a step if asked."""
import argparse, time
from dataclasses import replace
from pathlib import Path
import torch
from videop2r.cot import SHORT
from videop2r.engine.reading import to_prompts
from videop2r.model import add_lora, load
from videop2r.engine.tuner import train_sft
from videop2r.sft import SFT
from videop2r.tokens import Coder
from videop2r.world import from_record, gold, make_records, samples

SAMPLES = samples(Path(__file__).parent.parent / "data_samples")
SETTINGS = SFT(steps=8, batch=6, micro=2, bucket=2, lr=1e-3, weight_decay=.01, dropout=.1, save_every=3, validate_every=4)

def data(folder, n=14):
    "Examples with gold traces."
    coder, records = Coder.load(SAMPLES / "base"), list(make_records(folder, n, "sft"))
    examples, kept, _ = to_prompts(coder, records, folder, SHORT, 4)
    for e, r in zip(examples, kept): e.response = coder.ids(gold(from_record(r))) + [coder.eos]
    return coder, examples

def model_of(coder, s=SETTINGS): return add_lora(load(SAMPLES / "base", device="cpu"), coder.family, 4, 8, s.dropout, seed=s.seed)

def weights(model): return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

def main():
    p = argparse.ArgumentParser()
    p.add_argument("out"), p.add_argument("media"), p.add_argument("--sleep-at", type=int), p.add_argument("--dropout", type=float, default=.1), p.add_argument("--save")
    a = p.parse_args()
    coder, examples = data(a.media)
    def hook(row):
        if row["step"] == a.sleep_at:
            print("asleep", flush=True)
            time.sleep(60)
    model, s = model_of(coder, replace(SETTINGS, dropout=a.dropout)), replace(SETTINGS, dropout=a.dropout)
    train_sft(model, coder, examples[:10], s, a.out, examples[10:], quiet=True, hook=hook)
    if a.save: torch.save(weights(model), f"{a.save}.{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}")

if __name__ == "__main__": main()
