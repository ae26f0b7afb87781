"""Predictions a second: `videop2r eval`'s batches beside transformers' own `generate`, one question at a time, on the tiny checkpoint; `--json` for one object a row."""
import argparse, os, tempfile, time
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
from common import ROOT, machine, put, show

def one_by_one(model, questions, reader, prompt, limit):
    "The same prompts through `generate` of transformers, one at a time; replies by id."
    import torch
    from videop2r.tokens import encode
    policy, said = model.policy, {}
    for record in questions.records:
        visual = reader.visual(record, policy.family)
        ids = torch.tensor([encode(policy.coder, prompt.render(record), visual, name=record.problem_id).prompt])
        kinds = torch.where(ids == policy.model.config.video_token_id, 2, 0)
        given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=visual.patches, video_grid_thw=torch.tensor([list(visual.grid)]), mm_token_type_ids=kinds)
        ban = policy.coder.forbidden(policy.head.out_features)
        seconds = torch.tensor([visual.seconds_per_grid])
        with torch.no_grad(): out = policy.model.generate(**given, second_per_grid_ts=seconds, max_new_tokens=limit, do_sample=False, suppress_tokens=ban, eos_token_id=policy.coder.eos, pad_token_id=policy.coder.pad)
        said[record.problem_id] = policy.coder.text(out[0, ids.shape[1]:].tolist())
    return said

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40, help="questions, at most those about videos in data_samples")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--put", action="store_true", help="write the table into benchmarks/README.md")
    args = parser.parse_args()
    from videop2r.cot import SHORT
    from videop2r.engine.suites import SuiteReader, Within
    from videop2r.tools.predict import Decoding, Evaluated, Local, questions_of
    data = ROOT / "data_samples"
    how = Decoding(args.frames, limit=args.limit, temperature=0, batch=args.batch)
    model, questions = Local(data / "base", how), questions_of("records", data / "heldout.jsonl")
    questions.records = [record for record in questions.records if record.data_type == "video"]
    questions = questions.subset(min(args.n, len(questions.records)))
    reader = SuiteReader(data, how.frames, how.pixels, sampler=Within())
    one_by_one(model, questions.subset(2), reader, SHORT, 4) # both ways are warm
    start = time.perf_counter()
    alone = one_by_one(model, questions, reader, SHORT, args.limit)
    middle = time.perf_counter()
    rows = Evaluated.of(model, questions, reader, tempfile.mkdtemp(), SHORT, quiet=True).rows
    seconds = dict(zip(("generate, one by one", "eval"), (middle - start, time.perf_counter() - middle)))
    same = sum(row["response"] == alone[row["id"]] for row in rows)
    first = seconds["generate, one by one"]
    table, about = [dict(way=way, seconds=took, a_second=len(rows) / took, speed=first / took, same_replies=f"{same} of {len(rows)}") for way, took in seconds.items()], machine("torch", "transformers")
    show(table, args.json, about)
    if args.put: put("eval", table, about)

if __name__ == "__main__": main()
