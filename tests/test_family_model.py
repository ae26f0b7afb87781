"""Our batches and passes against the families' own processors, forward and generate, for both families; and what is refused at the door."""
import json, subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from family_pixels import PIXELS, frames
from videop2r.families import FAMILIES
from videop2r.model import add_lora, hidden_states, lm_head, load, load_adapter, merge, positions, tiny_config, token_logprobs, using
from videop2r.sampling import sample
from videop2r.shared import group_backward, group_states
from videop2r.tokens import Coder, collate, encode, train_tokenizer
from videop2r.video import Clip, prepare

TORCHVISION = Path(sys.prefix) / "torchvision"
WORDS = ["What moves in the clip?", "Which colour is the thing that waits for long?", "Say it."]
SIZE, IMAGE = (4, 90, 122), (1, 84, 130)
ROWS = dict(image=[("image", IMAGE, 1.)], video=[("video", SIZE, 4.)], slow=[("video", SIZE, .5)], videos=[("video", SIZE, 2.), ("video", (4, 60, 60), 1.)],
            mixed=[("video", SIZE, 3.), (None, None, None), ("image", IMAGE, 1.), ("video", (4, 60, 60), 1.)])


def make(folder, model_type, **kw):
    "A checkpoint of random weights."
    from transformers import AutoModelForImageTextToText
    coder = Coder(train_tokenizer(WORDS * 5 + ["0123456789. seconds"], 300), FAMILIES[model_type])
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config(coder, **{"hidden": 64, "layers": 3, "vision": 64, "depth": 3, **kw}))
    for p in model.parameters(): torch.nn.init.normal_(p, std=.2) if p.ndim > 1 else None
    model.save_pretrained(folder), coder.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request, tmp_path_factory): return make(tmp_path_factory.mktemp(request.param) / "m", request.param)

@pytest.fixture(scope="module")
def ready(folder): return Coder.load(folder), load(folder)

def clip(kind, shape, fps): return None if kind is None else Clip(frames(*shape)[:None if kind == "video" else 1], fps, kind=kind)

def example(coder, i, row, response=None):
    c = clip(*row)
    return encode(coder, WORDS[i % 3], c and prepare(c, coder.family, **PIXELS), response, f"r{i}")

def batch_of(coder, name, response=None): return collate(coder, [example(coder, i, r, response) for i, r in enumerate(ROWS[name])])


@pytest.fixture(scope="module")
def theirs(folder, ready, tmp_path_factory):
    if not TORCHVISION.exists(): pytest.skip(f"torchvision is not in {TORCHVISION.name}/ of the environment: pip install --no-deps --target .venv/torchvision torchvision")
    out, (before, after) = tmp_path_factory.mktemp("batch"), ready[0].turn
    mark = dict(image="<|vision_start|><|image_pad|><|vision_end|>", video="<|vision_start|><|video_pad|><|vision_end|>").get
    cases = {n: [dict(text=before + mark(k, "") + WORDS[i % 3] + after, kind=k, frames=s, fps=fps) for i, (k, s, fps) in enumerate(rows)] for n, rows in ROWS.items()}
    (out / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("family_batch.py")), TORCHVISION, ready[0].family.model_type, folder, out / "cases.json", out / "batch.npz"], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    return np.load(out / "batch.npz")

def stock(model, arrays, name):
    "The class's own forward on the processor's batch."
    get = {k.split(" ", 1)[1]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(f"{name} ")}
    with torch.no_grad(): return get, model(**{k: v for k, v in get.items() if k != "video_metadata"}).logits

@pytest.mark.parametrize("name", ROWS)
def test_our_batch_is_the_processors(ready, theirs, name):
    coder, model = ready
    (get, want), batch = stock(model, theirs, name), batch_of(coder, name)
    assert (batch.ids == get["input_ids"])[batch.mask].all() and (batch.mask == get["attention_mask"].bool()).all()
    with torch.no_grad(): got = lm_head(model)(hidden_states(model, replace(batch, prompt=1))) # all states but the last
    assert (got - want[:, :-1])[batch.mask[:, :-1]].abs().max() < 1e-5 * want.abs().max()


def responses(coder, p, g, seed=0):
    "Random responses of uneven lengths, (p·g, t)."
    gen = torch.Generator().manual_seed(seed)
    n = torch.randint(1, 12, (p * g,), generator=gen)
    mask = torch.arange(int(n.max()))[None] < n[:, None]
    allowed = [i for i in range(300) if i not in coder.forbidden(300)]
    return torch.tensor(allowed)[torch.randint(len(allowed), mask.shape, generator=gen)].masked_fill(~mask, coder.pad), mask

def with_responses(coder, examples, ids, mask, g):
    return collate(coder, [replace(examples[i // g], response=ids[i][mask[i]].tolist()) for i in range(len(ids))])

def plain_gradient(model, coder, examples, ids, mask, g, weight):
    "Log-probabilities and gradient of the plain batch."
    model.zero_grad()
    batch = with_responses(coder, examples, ids, mask, g)
    lp = token_logprobs(model, hidden_states(model, batch), batch.response, batch.response_mask, coder)[0]
    (lp * weight).sum().backward()
    return lp.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

@pytest.mark.parametrize("name,g,rows,recompute", [("video", 3, 2, "nothing"), ("image", 2, None, "all"), ("mixed", 3, None, "prompt"), ("videos", 2, 1, "all")])
def test_the_shared_prompt_equals_the_plain_way(folder, ready, name, g, rows, recompute):
    coder, model = ready[0], add_lora(load(folder), ready[0].family, rank=4)
    for n, p in model.named_parameters(): torch.nn.init.normal_(p, std=.1) if "lora_B" in n else None
    examples = [example(coder, i, r) for i, r in enumerate(ROWS[name])]
    ids, mask = responses(coder, len(examples), g)
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    lp, want = plain_gradient(model, coder, examples, ids, mask, g, weight)
    prompts = collate(coder, examples)
    with torch.no_grad(): got = token_logprobs(model, group_states(model, prompts, ids, mask, g, rows=rows), ids, mask, coder)[0]
    assert (got - lp).abs().max() < 1e-5
    model.zero_grad()
    group_backward(model, prompts, ids, mask, g, lambda h, i, t: (token_logprobs(model, h, ids[i, :t], mask[i, :t], coder)[0] * weight[i, :t]).sum(), None, rows, recompute)
    grad = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (grad - want).norm() < 1e-4 * want.norm()


def test_greedy_equals_generate(ready):
    coder, model = ready
    e = example(coder, 0, ROWS["video"][0])
    batch, v = collate(coder, [e]), e.visual
    more = {} if coder.family.model_type == "qwen3_vl" else dict(second_per_grid_ts=[v.seconds_per_grid])
    with torch.no_grad():
        out = model.generate(input_ids=batch.ids, attention_mask=batch.mask.long(), mm_token_type_ids=batch.kinds.int(), pixel_values_videos=v.patches, video_grid_thw=torch.tensor([list(v.grid)]),
                             max_new_tokens=16, do_sample=False, suppress_tokens=[i for i in coder.forbidden(lm_head(model).out_features)], eos_token_id=coder.eos, pad_token_id=coder.pad, **more)
    assert sample(model, coder, [e], limit=16, temperature=0).rows()[0] == out[0, batch.prompt:].tolist()

def test_the_rate_matters(ready):
    coder, model = ready
    fast, slow = (batch_of(coder, n) for n in ("video", "slow"))
    if coder.family.tokens_per_second:
        assert (fast.ids == slow.ids).all() and not (positions(model, fast) == positions(model, slow)).all()
    else: assert coder.text(fast.ids[0].tolist()) != coder.text(slow.ids[0].tolist()) and "seconds>" in coder.text(slow.ids[0].tolist())

def test_media_do_not_leak_into_text(ready):
    coder, model = ready
    batch, alone = batch_of(coder, "mixed"), collate(coder, [example(coder, 1, (None, None, None))])
    with torch.no_grad(): a, b = (hidden_states(model, replace(x, prompt=1)) for x in (batch, alone))
    n = alone.mask.sum() - 1
    assert (a[1, -n:] - b[0, -n:]).abs().max() < 1e-4


@pytest.mark.parametrize("vision", [False, True])
def test_adapters_are_where_they_should_be(folder, ready, vision):
    model = add_lora(load(folder), ready[0].family, rank=2, vision=vision)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained) and any("visual" in n for n in trained) == vision
    assert sum("language_model" in n for n in trained) == 2 * 7 * 3 # two matrices at seven linears of three layers
    if not vision: return
    batch = batch_of(ready[0], "video", "yes")
    (-token_logprobs(model, hidden_states(model, batch), batch.response, batch.response_mask, ready[0])[0].sum()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "visual" in n and "lora_B" in n)

def trained(folder, coder, out):
    "A saved adapter that differs from the base, with its model."
    model = add_lora(load(folder), coder.family, rank=4)
    for n, p in model.named_parameters(): torch.nn.init.normal_(p, std=.1) if "lora_B" in n else None
    model.save_pretrained(str(out), selected_adapters=["policy"])
    return model, out / "policy"

def read(model, coder, name="policy"):
    batch = batch_of(coder, "video", "yes and no")
    with torch.no_grad(), using(model, name): return token_logprobs(model, hidden_states(model, batch), batch.response, batch.response_mask, coder)[0]

def test_plain_peft_loads_it_and_merging_gives_the_same(folder, ready, tmp_path):
    from peft import PeftModel
    coder = ready[0]
    model, adapter = trained(folder, coder, tmp_path)
    want = read(model, coder)
    assert torch.equal(read(PeftModel.from_pretrained(load(folder), adapter, "policy"), coder), want)
    merge(folder, adapter, tmp_path / "whole")
    whole, batch = load(tmp_path / "whole"), batch_of(coder, "video", "yes and no")
    with torch.no_grad(): got = token_logprobs(whole, hidden_states(whole, batch), batch.response, batch.response_mask, Coder.load(tmp_path / "whole"))[0]
    assert (got - want).abs().max() < 1e-4

def test_the_reference_is_the_tuned_model(folder, ready, tmp_path):
    coder = ready[0]
    tuned, adapter = trained(folder, coder, tmp_path)
    want, bare = read(tuned, coder), read(tuned, coder, None)
    model = load_adapter(load_adapter(load(folder), adapter, "policy", trainable=True), adapter, "reference")
    with torch.no_grad():
        for n, p in model.named_parameters(): p.add_(.1) if "lora_B.policy" in n else None
    wants = {n: p.requires_grad for n, p in model.named_parameters()}
    assert torch.equal(read(model, coder, "reference"), want) and torch.equal(read(model, coder, None), bare)
    assert (want - bare).abs().max() > 1e-3 < (read(model, coder) - want).abs().max()
    assert wants == {n: p.requires_grad for n, p in model.named_parameters()} and all(v == ("policy" in n) for n, v in wants.items() if "lora_" in n)


@pytest.mark.parametrize("other,said", [(dict(hidden=128), "made for width"), (dict(layers=4), "no weights for"), (dict(layers=2), "which the base has not")])
def test_an_adapter_of_another_base(folder, ready, tmp_path, other, said):
    _, adapter = trained(folder, ready[0], tmp_path)
    base = load(make(tmp_path / "other", ready[0].family.model_type, **other))
    with pytest.raises(ValueError, match=said) as e: load_adapter(base, adapter, "policy")
    assert str(folder) in str(e.value) and str(tmp_path / "other") in str(e.value)

def test_folders_that_hold_no_checkpoint(folder, tmp_path):
    import shutil
    for f in (load, Coder.load):
        with pytest.raises(ValueError, match="no config.json"): f(tmp_path)
    with pytest.raises(ValueError, match="adapter_config.json"): load_adapter(load(folder), tmp_path, "policy")
    shutil.copytree(folder, tmp_path / "m")
    torch.save({}, tmp_path / "m" / "pytorch_model.bin"), (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"): load(tmp_path / "m")
    told = json.loads((folder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(dict(told, model_type="llama")))
    with pytest.raises(ValueError, match="qwen2_5_vl, qwen3_vl"): load(tmp_path / "m")

def test_a_tokenizer_of_another_checkpoint(folder, tmp_path):
    import shutil
    shutil.copytree(folder, tmp_path / "m")
    train_tokenizer(["other words"], 280).save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="one checkpoint"): Coder.load(tmp_path / "m")


REAL = {"qwen2_5_vl": dict(text=dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4), layers=28),
        "qwen3_vl": dict(text=dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128), layers=36)}

@pytest.mark.parametrize("model_type", REAL)
def test_lora_finds_every_linear_at_true_shapes(model_type):
    from transformers import AutoConfig, AutoModelForImageTextToText
    with torch.device("meta"): model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, text_config=dict(REAL[model_type]["text"], vocab_size=152064)))
    model = add_lora(model, FAMILIES[model_type], rank=16)
    assert sum("lora_A" in n for n, _ in model.named_parameters()) == 7 * REAL[model_type]["layers"]
