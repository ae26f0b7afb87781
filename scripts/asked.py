"""Ask the embedded teacher again for `data_samples/group.json` and `judged.json`: a group, and twelve observations."""
import json, sys
from pathlib import Path
import torch
from videop2r.cot import SHORT, parse
from videop2r.data import read_records
from videop2r.engine.files import write_text
from videop2r.engine.paint import clip_uri
from videop2r.engine.reading import to_prompts
from videop2r.engine.scenes import FPS, draw_frames
from videop2r.judge import ORACLE, base_judge
from videop2r.model import Policy
from videop2r.oracle import sufficient
from videop2r.recipe import Recipe
from videop2r.rollout import collect, example
from videop2r.world import from_record, samples

GROUP = "embedded-heldout-00028"
WANTED = {  # the verdict that the observation shall have
    "00000": "contradicts", "00009": "sufficient", "00010": "insufficient", "00004": "sufficient",
    "00008": "contradicts", "00029": "insufficient", "00002": "sufficient", "00038": "contradicts",
    "00011": "insufficient", "00046": "sufficient", "00051": "insufficient", "00049": "contradicts"}

def group(policy, record, root, seed):
    "Eight responses to a record, judged."
    prompts, records, _ = to_prompts(policy.coder, [record], root, SHORT, 8)
    with torch.no_grad(): features = policy.see([prompts[0].visual])
    recipe, rng = Recipe(bounds="short", how="lenient"), torch.Generator().manual_seed(seed)
    rollout = collect(policy, records, prompts, features, ORACLE, 8, recipe, limit=96, generator=rng, reference=None)
    clip = clip_uri(draw_frames(from_record(record).scene), FPS, 2)
    found = example(rollout, policy.coder) | dict(problem_id=record.problem_id, clip=clip)
    for each, verdict in zip(found["rollouts"], rollout.verdicts):
        each["reason"] = verdict.reason if verdict else "empty: there is no observation"
    return found

def told(policy, record, root, verdict):
    "The first observation that has this verdict."
    for seed in range(20):
        for rollout in group(policy, record, root, seed)["rollouts"]:
            trace = parse(rollout["text"])
            if not trace.perception_ok: continue
            if sufficient(trace.observation, from_record(record)).verdict == verdict: return trace.observation
    raise RuntimeError(f"{record.problem_id}: none of 160 observations is {verdict}; ask for another verdict")

def main(out):
    root = samples()
    records = {record.problem_id: record for record in read_records(root / "heldout.jsonl")}
    teacher, base = Policy.load(root / "teacher"), base_judge(Policy.load(root / "base"))
    write_text(out / "group.json", json.dumps(group(teacher, records[GROUP], root, 0)) + "\n")
    rows = []
    for name, verdict in WANTED.items():
        record = records[f"embedded-heldout-{name}"]
        observation = told(teacher, record, root, verdict)
        said = base(record, observation)
        rows.append(dict(problem_id=record.problem_id, observation=observation, judge=f"embedded {base.name}",
                         yes=said.yes, reason=said.reason))
    write_text(out / "judged.json", json.dumps(rows, indent=1) + "\n")

if __name__ == "__main__": main(Path(sys.argv[1]) if sys.argv[1:] else samples())
