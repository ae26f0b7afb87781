"""A model with the proportions of Qwen2.5-VL-7B at an eighth of its widths and a seventh of its layers, prompts and responses of the paper's lengths, and their multiply-adds.

"eighth": language model 448 wide (3,584 / 8), 4 layers (28 / 7), 7 query heads and 1 key head of 64 (28 and 4 of 128), feed-forward 2,368 wide (18,944 / 8);
vision tower 160 wide (1,280 / 8), 2 heads of 80, 3 layers, so that it costs 0.41 of the language model's multiply-adds for each visual token (0.40 in the 7B);
LoRA of rank 2 (16 / 8) on all linear layers of the language model; a vocabulary whose output layer takes the 7B's share. Random weights, float32, the real `Qwen2_5_VLForConditionalGeneration`.
"""
import json, time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
import torch
from common import child
from videop2r.families import family_of
from videop2r.model import add_lora
from videop2r.tokens import Batch
from videop2r.video import Visual

HIDDEN, LAYERS, HEADS, KV, INTER, VOCAB, RANK = 448, 4, 7, 1, 2368, 2720, 2
V_HIDDEN, V_LAYERS, V_HEADS, V_INTER = 160, 3, 2, 428
IMAGE, VIDEO, EOS, PAD, TEXT = 0, 1, 2, 3, 10  # ids; from TEXT on they are words

def config():
    from transformers import Qwen2_5_VLConfig
    text = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INTER, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV, bos_token_id=None,
                eos_token_id=EOS, pad_token_id=PAD, max_position_embeddings=32768, rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[8, 12, 12]), tie_word_embeddings=False)
    tower = dict(depth=V_LAYERS, hidden_size=V_HIDDEN, intermediate_size=V_INTER, num_heads=V_HEADS, out_hidden_size=HIDDEN, fullatt_block_indexes=[V_LAYERS - 1], tokens_per_second=2)
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=4, vision_end_token_id=5, tie_word_embeddings=False)

def model(train="lora"):
    "Random weights; trains LoRA, as after some steps (both its matrices filled), or all layers of the language model."
    from transformers import Qwen2_5_VLForConditionalGeneration
    torch.manual_seed(0)
    m = Qwen2_5_VLForConditionalGeneration(config()).eval().requires_grad_(False)
    if train == "layers":
        m.model.language_model.layers.requires_grad_(True)
        return m
    m = add_lora(m, FAMILY, rank=RANK, alpha=2 * RANK, name="default") # the name that TRL asks for
    for n, p in m.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=.01)
    return m

FAMILY = family_of("qwen2.5-vl")
coder = SimpleNamespace(forbidden=lambda n: [], eos=EOS, pad=PAD, text=lambda ids: "", family=FAMILY, bytes=None,
                        tokenizer=SimpleNamespace(convert_tokens_to_ids={FAMILY.image_token: IMAGE, FAMILY.video_token: VIDEO}.get))

@dataclass
class Case:
    "One prompt and the lengths of its responses."
    frames: int
    tokens: int             # a frame pair's, after merging
    lengths: tuple
    text: int = 276         # other tokens of the prompt
    @property
    def visual(self): return self.frames // 2 * self.tokens
    @property
    def prompt(self): return self.visual + self.text
    @property
    def name(self): return f"{self.frames} x {self.tokens}"

LENGTHS = (450, 504, 558, 613, 667, 721, 776, 830)
SMALL, LARGE = Case(16, 128, LENGTHS), Case(32, 256, LENGTHS)

def visual(case):
    h = 2 ** (case.tokens.bit_length() // 2) * 2 # patches; 128 tokens are 16 x 32 patches, 256 are 32 x 32
    grid = (case.frames // 2, h, 4 * case.tokens // h)
    return Visual(torch.randn(grid[0] * grid[1] * grid[2], 1176), grid, "video", 1.)

def inputs(case, visual_of=visual):
    "Prompt as a Batch of one row; ids and mask of the responses."
    torch.manual_seed(1)
    words = lambda *n: torch.randint(TEXT, VOCAB, n)
    ids = torch.cat([words(20), torch.full((case.visual,), VIDEO), words(case.text - 20)])[None]
    mask = torch.arange(max(case.lengths))[None] < torch.tensor(case.lengths)[:, None]
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), 2 * (ids == VIDEO), ids.shape[1], torch.zeros(1, 2, 0, dtype=torch.bool), [visual_of(case)], ["prompt"]), words(*mask.shape).masked_fill(~mask, PAD), mask

# Multiply-adds, in 1e9. What is trained goes forward, backward to its input and backward to its weights; what is frozen only the first two; attention's backward is twice its forward.

LINEARS = ((HIDDEN, HIDDEN), (HIDDEN, KV * 64), (HIDDEN, KV * 64), (HIDDEN, HIDDEN), (HIDDEN, INTER), (HIDDEN, INTER), (INTER, HIDDEN))

def token_cost(passes, train="lora"):
    "Of one token in the linear layers; `passes`: forward only, or all."
    full, low = sum(a * b for a, b in LINEARS), sum(RANK * (a + b) for a, b in LINEARS)
    if passes == "forward": return LAYERS * (full + (low if train == "lora" else 0))
    return LAYERS * (2 * full + 3 * low if train == "lora" else 3 * full)

def vision_cost(case):
    patch = 1176 * V_HIDDEN + V_LAYERS * (4 * V_HIDDEN**2 + 3 * V_HIDDEN * V_INTER)
    attention = sum(2 * V_HIDDEN * (4 * case.tokens if i == V_LAYERS - 1 else 64) for i in range(V_LAYERS))
    return case.visual * (4 * (patch + attention) + (4 * V_HIDDEN) ** 2 + 4 * V_HIDDEN * HIDDEN)

def attention_cost(pairs, passes): return 2 * LAYERS * HIDDEN * pairs * (1 if passes == "forward" else 3)

def head_cost(n, passes): return n * HIDDEN * VOCAB * (1 if passes == "forward" else 2)

def shared_cost(case, passes="all", train="lora"):
    p, n = case.prompt, sum(case.lengths)
    pairs = p * p / 2 + sum(p * t + t * t / 2 for t in case.lengths)
    return (vision_cost(case) + (p + n) * token_cost(passes, train) + attention_cost(pairs, passes) + head_cost(n, passes)) / 1e9

def padded_cost(case, passes="all", train="lora", masked=0):
    "`masked` rows attend under a mask, so that a kernel computes the whole square and not its causal half."
    p, t, g = case.prompt, max(case.lengths), len(case.lengths)
    return masked * attention_cost((p + t) ** 2 / 2, passes) / 1e9 + g * (vision_cost(case) + (p + t) * token_cost(passes, train) + attention_cost((p + t) ** 2 / 2, passes) + head_cost(t, passes)) / 1e9

# One way of doing something, in a process of its own: its seconds, or the memory that it adds.

LIMITS = dict(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0") # freed tensors go back at once

def _status(name): return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) / 1024

def clocked(run, spec, parts={}):
    "In the child: print the fastest of `repeat` runs, by the processor's clock where there is one thread, and what they add to resident memory, in MB."
    torch.set_num_threads(spec["threads"])
    open("/proc/self/clear_refs", "w").write("5") # the high-water mark starts at what is resident now
    start, best, clock = _status("VmRSS"), float("inf"), time.process_time if spec["threads"] == 1 else time.perf_counter
    for _ in range(1 if spec["memory"] else spec["repeat"]):
        begin = clock()
        run()
        best = min(best, clock() - begin)
    print(json.dumps(dict(seconds=best, peak=_status("VmHWM") - start, **parts)))

def spawn(file, memory=False, **spec):
    "What the program's `--work` prints; `peak` is right with `memory` only, `seconds` without."
    out = child(Path(file).resolve(), "--work", json.dumps(dict(spec, memory=memory)), **(LIMITS if memory else {}))["out"]
    return json.loads(out.splitlines()[-1])
