"""Two steps of the bridge's trainer on frames, with the family's own processor; run as a program, since torchvision must be in place before transformers looks for it.
usage: bridge_images.py FOLDER_OF_TORCHVISION OUT.json"""
import json, sys, tempfile, types

TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""

def processor():
    from transformers import AutoTokenizer
    from family_batch import qwen2_5
    from videop2r.world import samples
    tokenizer = AutoTokenizer.from_pretrained(samples() / "teacher", padding_side="left")
    out = qwen2_5(tokenizer)
    out.chat_template = tokenizer.chat_template = TEMPLATE
    return out

def trained(out):
    from trl import GRPOConfig
    from videop2r.tools.trl import PAGRPOTrainer, process_rewards, to_trl
    from videop2r.cot import SHORT
    from videop2r.data import read_jsonl
    from videop2r.judge import ORACLE
    from videop2r.model import load
    from videop2r.world import samples
    p, args = processor(), dict(max_steps=2, per_device_train_batch_size=4, num_generations=4, max_completion_length=24, loss_type="dr_grpo", use_cpu=True, bf16=False)
    data = to_trl(read_jsonl(samples() / "train.jsonl")[:2], samples(), 4, SHORT)
    t = PAGRPOTrainer(load(samples() / "teacher").requires_grad_(True), process_rewards(p.tokenizer, ORACLE),
                      GRPOConfig(out, report_to="none", logging_steps=1, save_strategy="no", gradient_checkpointing=False, **args), data, processing_class=p)
    seen, score = [], t._generate_and_score_completions
    t._generate_and_score_completions = lambda rows: seen.append(score(rows)) or seen[-1]
    t.train()
    return dict(log=t.state.log_history[:2], images=seen[0]["num_images"], advantages=list(seen[0]["advantages"].shape), ids=list(seen[0]["completion_ids"].shape))

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations") # they need torchvision's own build of torch
    with tempfile.TemporaryDirectory() as folder: found = trained(folder)
    with open(sys.argv[2], "w") as f: json.dump(found, f)
