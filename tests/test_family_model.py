"""Our batches and passes against the families' own processors, forward and generate, for both families; and what is refused at the door."""
import inspect, json
from dataclasses import replace
import pytest, torch
from family_pixels import PIXELS, frames
from videop2r.families import FAMILIES, Shape, lora_parameters, parameters
from videop2r.model import Policy, add_lora, load, load_adapter, merge_adapter
import videop2r.sampling # gives Policy its `sample`
from videop2r.engine.shared import group_backward, group_logprobs
from videop2r.tokens import Coder, collate, encode, train_tokenizer
from videop2r.video import Clip, prepare
from storm import some
from theirs import batches

WORDS = ["What moves in the clip?", "Which colour is the thing that waits for long?", "Say it."]
SIZE, IMAGE = (4, 90, 122), (1, 84, 130)
ROWS = dict(image=[("image", IMAGE, 1.)], video=[("video", SIZE, 4.)], slow=[("video", SIZE, .5)], videos=[("video", SIZE, 2.), ("video", (4, 60, 60), 1.)],
            mixed=[("video", SIZE, 3.), (None, None, None), ("image", IMAGE, 1.), ("video", (4, 60, 60), 1.)])


def make(folder, model_type, **kw):
    "A checkpoint of random weights."
    from transformers import AutoModelForImageTextToText
    coder = Coder(train_tokenizer(WORDS * 5 + ["0123456789. seconds"], 300), FAMILIES[model_type])
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(coder.tiny_config(**{"hidden": 64, "layers": 3, "vision": 64, "depth": 3, **kw}))
    for n, p in model.named_parameters(): torch.nn.init.normal_(p, 0. if p.ndim > 1 or n.endswith("bias") else 1., .2) # biases and norms too, or a lost one would not be seen
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
    before, after = ready[0].turn
    mark = dict(image="<|vision_start|><|image_pad|><|vision_end|>", video="<|vision_start|><|video_pad|><|vision_end|>").get
    cases = {n: [dict(text=before + mark(k, "") + WORDS[i % 3] + after, kind=k, frames=s, fps=fps) for i, (k, s, fps) in enumerate(rows)] for n, rows in ROWS.items()}
    return batches(ready[0].family.model_type, folder, cases, tmp_path_factory.mktemp("batch"))

@pytest.fixture(scope="module")
def stock(folder):
    "The class as transformers has it, its convolution too."
    from transformers import AutoModelForImageTextToText
    return AutoModelForImageTextToText.from_pretrained(folder).eval()

def published(policy, batch):
    "What a forward must be told: Qwen2.5-VL's class in transformers 5 has other positions than those that it was published with."
    return dict(position_ids=policy.positions(batch)) if policy.family.tokens_per_second else {}

def answer(model, arrays, name, **more):
    "The class's own forward on the processor's batch."
    get = {k.split(" ", 1)[1]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(f"{name} ")}
    with torch.no_grad(): return get, model(**{k: v for k, v in get.items() if k != "video_metadata"}, **more).logits

@pytest.mark.parametrize("name", ROWS)
def test_our_batch_is_the_processors(ready, stock, theirs, name):
    policy = Policy(ready[1], coder := ready[0])
    batch = batch_of(coder, name)
    get, want = answer(stock, theirs, name, **published(policy, batch))
    assert (batch.ids == get["input_ids"])[batch.mask].all() and (batch.mask == get["attention_mask"].bool()).all()
    with torch.no_grad(): got = policy.head(policy.states(replace(batch, prompt=1))) # all states but the last
    near = 4e-5 if coder.family.model_type == "qwen3_5" else 1e-5 # the class is as far from itself in double precision: 3e-4 of 14
    assert (got - want[:, :-1])[batch.mask[:, :-1]].abs().max() < near * want.abs().max()


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
    lp = Policy(model, coder).logprobs(batch)
    (lp * weight).sum().backward()
    return lp.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

@pytest.fixture
def wide(monkeypatch):
    "The delta rule of transformers computes in single precision whatever the model's: here in double, as the rest of the test."
    from transformers.models.qwen3_5 import modeling_qwen3_5 as module
    class Wide:
        float32 = torch.float64
        def __getattr__(self, name): return getattr(torch, name)
    for rule in (module.torch_chunk_gated_delta_rule, module.torch_recurrent_gated_delta_rule): monkeypatch.setitem(inspect.unwrap(rule).__globals__, "torch", Wide())

@pytest.mark.parametrize("name,g,rows,recompute", [("video", 3, 2, "nothing"), ("image", 2, None, "all"), ("mixed", 3, None, "prompt"), ("videos", 2, 1, "all")])
def test_the_shared_prompt_equals_the_plain_way(folder, ready, wide, name, g, rows, recompute):
    coder, model = ready[0], add_lora(load(folder), ready[0].family, rank=4).double() # single precision leaves 1e-5, more or less by machine
    for n, p in model.named_parameters(): torch.nn.init.normal_(p, std=.1) if "lora_B" in n else None
    examples = [example(coder, i, r) for i, r in enumerate(ROWS[name])]
    ids, mask = responses(coder, len(examples), g)
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    lp, want = plain_gradient(model, coder, examples, ids, mask, g, weight)
    prompts, policy = collate(coder, examples), Policy(model, coder)
    with torch.no_grad(): got = group_logprobs(policy, prompts, ids, mask, g, rows=rows)
    assert (got - lp).abs().max() < 1e-5
    model.zero_grad()
    group_backward(policy, prompts, ids, mask, g, lambda h, i, t: (policy.token_logprobs(h, ids[i, :t], mask[i, :t])[0] * weight[i, :t]).sum(), None, rows, recompute)
    grad = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (grad - want).norm() < 1e-4 * want.norm()


def generated(model, coder, examples, limit):
    "What `generate` says greedily, on our batch."
    batch = collate(coder, examples)
    kinds = {k: [e.visual for e in examples if e.visual and e.visual.kind == k] for k in ("image", "video")}
    more = published(Policy(model, coder), batch)
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if kinds[kind]: more |= {name: torch.cat([v.patches for v in kinds[kind]]), f"{kind}_grid_thw": torch.tensor([list(v.grid) for v in kinds[kind]])}
    with torch.no_grad():
        return model.generate(input_ids=batch.ids, attention_mask=batch.mask.long(), mm_token_type_ids=batch.kinds.int(), max_new_tokens=limit, do_sample=False,
                              suppress_tokens=coder.forbidden(Policy(model, coder).head.out_features), eos_token_id=coder.eos, pad_token_id=coder.pad, **more)[:, batch.prompt:].tolist()

@pytest.mark.parametrize("name", ["image", "video", "videos", "mixed"])
def test_greedy_equals_generate(ready, stock, name):
    coder, model = ready
    examples = [example(coder, i, r) for i, r in enumerate(ROWS[name])]
    said = [row[:row.index(coder.eos) + 1] if coder.eos in row else row for row in generated(stock, coder, examples, 16)]
    assert Policy(model, coder).sample(examples, limit=16, temperature=0).rows() == said

def test_the_rate_matters(ready):
    coder, policy = ready[0], Policy(ready[1], ready[0])
    fast, slow = (batch_of(coder, n) for n in ("video", "slow"))
    if coder.family.tokens_per_second:
        assert (fast.ids == slow.ids).all() and not (policy.positions(fast) == policy.positions(slow)).all()
    else: assert coder.text(fast.ids[0].tolist()) != coder.text(slow.ids[0].tolist()) and "seconds>" in coder.text(slow.ids[0].tolist())

def test_features_of_another_batch(ready):
    coder, policy = ready[0], Policy(ready[1], ready[0])
    batch, others = batch_of(coder, "mixed"), batch_of(coder, "videos")
    for features, said in ((policy.see(others.visuals), "2 features for 4 rows"), ([None] * 4, "record r0: 0 visual features for"), (policy.see(batch.visuals)[::-1], "record r0")):
        with pytest.raises(ValueError, match=said): policy.states(batch, features)
        with pytest.raises(ValueError, match=said): group_logprobs(policy, batch, batch.ids[:, :1], batch.mask[:, -1:], 1, features)

def test_media_do_not_leak_into_text(ready):
    coder, policy = ready[0], Policy(ready[1], ready[0])
    batch, alone = batch_of(coder, "mixed"), collate(coder, [example(coder, 1, (None, None, None))])
    with torch.no_grad(): a, b = (policy.states(replace(x, prompt=1)) for x in (batch, alone))
    n = alone.mask.sum() - 1
    near = 1e-3 if coder.family.model_type == "qwen3_5" else 1e-4 # its class reads in chunks, in single precision, and padding moves their borders: 1e-4, more or less by machine; one token more moves half of all states by .08
    assert (a[1, -n:] - b[0, -n:]).abs().max() < near


@pytest.mark.parametrize("vision", [False, True])
def test_adapters_are_where_they_should_be(folder, ready, vision):
    model = add_lora(load(folder), ready[0].family, rank=2, vision=vision)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained) and any("visual" in n for n in trained) == vision
    each = [7, 7, 7] if ready[0].family.model_type != "qwen3_5" else [6, 6, 7] # linears of the layers; two matrices at each
    assert sum("language_model" in n for n in trained) == 2 * sum(each)
    if not vision: return
    batch = batch_of(ready[0], "video", "yes")
    (-Policy(model, ready[0]).logprobs(batch).sum()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "visual" in n and "lora_B" in n)

def trained(folder, coder, out):
    "A saved adapter that differs from the base, with its model."
    model = add_lora(load(folder), coder.family, rank=4)
    for n, p in model.named_parameters(): torch.nn.init.normal_(p, std=.1) if "lora_B" in n else None
    model.save_pretrained(str(out), selected_adapters=["policy"])
    return model, out / "policy"

def read(model, coder, name="policy"):
    batch = batch_of(coder, "video", "yes and no")
    with torch.no_grad(), Policy(model, coder).using(name) as policy: return policy.logprobs(batch)

def test_plain_peft_loads_it_and_merging_gives_the_same(folder, ready, tmp_path):
    from peft import PeftModel
    coder = ready[0]
    model, adapter = trained(folder, coder, tmp_path)
    want = read(model, coder)
    assert torch.equal(read(PeftModel.from_pretrained(load(folder), adapter, "policy"), coder), want)
    merge_adapter(folder, adapter, tmp_path / "whole")
    whole, batch = Policy.load(tmp_path / "whole"), batch_of(coder, "video", "yes and no")
    with torch.no_grad(): got = whole.logprobs(batch)
    assert (got - want).abs().max() < 1e-4

def test_merging_keeps_the_numbers_for_pixels_and_what_it_reads(folder, ready, tmp_path):
    import shutil
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(dict(image_mean=[.1, .2, .3], image_std=[.4, .5, .6])))
    _, adapter = trained(tmp_path / "m", ready[0], tmp_path)
    merge_adapter(tmp_path / "m", adapter, tmp_path / "whole")
    assert Coder.load(tmp_path / "whole").family == Coder.load(tmp_path / "m").family != ready[0].family
    for out in (tmp_path / "m", adapter):
        with pytest.raises(ValueError, match="another folder"): merge_adapter(tmp_path / "m", adapter, out)

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

@pytest.mark.parametrize("name", ["reference", None])
def test_a_frozen_adapter_stays_frozen(folder, ready, tmp_path, name):
    _, adapter = trained(folder, ready[0], tmp_path)
    model = load_adapter(load(folder), adapter, "reference")
    policy = Policy(model, ready[0])
    with policy.using(name), policy.using(None): pass
    assert not any(p.requires_grad for p in model.parameters())

@pytest.mark.parametrize("alone", [True, False])
def test_the_base_that_lent_its_layers_to_an_adapter_is_still_to_be_had(folder, ready, tmp_path, alone):
    _, adapter = trained(folder, ready[0], tmp_path)
    base = load(folder)
    want = read(base, ready[0], None)
    wrapped = load_adapter(base, adapter, "policy") # PEFT puts it into the layers of `base` itself
    held = base if alone else wrapped
    with torch.no_grad(): tuned = read(wrapped, ready[0])
    assert torch.equal(read(held, ready[0], None), want) and (tuned - want).abs().max() > 1e-3
    assert torch.equal(read(wrapped, ready[0]), tuned) # on again

def test_a_switch_is_undone_after_an_error(folder, ready, tmp_path):
    model, adapter = trained(folder, ready[0], tmp_path)
    model = load_adapter(model, adapter, "reference")
    using = Policy(model, ready[0]).using
    for name in ("reference", None):
        with pytest.raises(KeyError), using(name): raise KeyError
        assert model.active_adapter == "policy" and all(p.requires_grad == (".policy." in n) for n, p in model.named_parameters())
    with pytest.raises(ValueError, match="judge"), using("judge"): pass
    assert model.active_adapter == "policy"


def gradient(model, coder):
    batch = batch_of(coder, "mixed", "yes and no")
    model.zero_grad()
    (-Policy(model, coder).logprobs(batch).sum()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

def test_checkpointing_changes_no_gradient(folder, ready):
    model = add_lora(load(folder), ready[0].family, rank=4, vision=True).train()
    for n, p in model.named_parameters(): torch.nn.init.normal_(p, std=.1) if "lora_B" in n else None
    want, runs = gradient(model, ready[0]), []
    layer = model.get_base_model().model.language_model.layers[0]
    layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    model.get_base_model().gradient_checkpointing_enable(dict(use_reentrant=False))
    assert (gradient(model, ready[0]) - want).norm() < 1e-5 * want.norm() and len(runs) == 2 # forward, and again in the backward pass

def test_four_bits_with_products_in_bfloat16(folder, ready):
    model = load(folder, nf4=True, dtype=torch.bfloat16, device="cpu")
    kinds = {n: (type(m).__name__, m.weight.quant_state.nested, m.compute_dtype) for n, m in model.named_modules() if hasattr(m, "compute_dtype") and hasattr(m.weight, "quant_state")}
    assert len(kinds) == (7 * 3 if ready[0].family.model_type != "qwen3_5" else 8 + 8 + 7) and all("language_model" in n for n in kinds) and set(kinds.values()) == {("Linear4bit", True, torch.bfloat16)}
    grad = gradient(add_lora(model, ready[0].family, rank=4), ready[0])
    assert grad.isfinite().all() and grad.norm() > 0


@pytest.mark.parametrize("other,said", [(dict(hidden=128), "made for width"), (dict(layers=4), "no weights for"), (dict(layers=2), "which the base has not")])
def test_an_adapter_of_another_base(folder, ready, tmp_path, other, said):
    _, adapter = trained(folder, ready[0], tmp_path)
    base = load(make(tmp_path / "other", ready[0].family.model_type, **other))
    if ready[0].family.model_type == "qwen3_5" and "layers" in other: said = "which the base has not" # its third layer is of another kind there
    with pytest.raises(ValueError, match=said) as e: load_adapter(base, adapter, "policy")
    assert str(folder) in str(e.value) and str(tmp_path / "other") in str(e.value)

def test_a_base_of_another_name_is_said(folder, ready, tmp_path):
    import shutil
    _, adapter = trained(folder, ready[0], tmp_path)
    shutil.copytree(folder, tmp_path / "sibling")
    with pytest.warns(UserWarning, match=f"made for {folder} and is loaded on .*sibling"): load_adapter(load(tmp_path / "sibling"), adapter, "policy")

def test_folders_that_hold_no_checkpoint(folder, tmp_path):
    import shutil
    for f in (load, Coder.load):
        with pytest.raises(ValueError, match="no config.json"): f(tmp_path)
    with pytest.raises(ValueError, match="adapter_config.json"): load_adapter(load(folder), tmp_path, "policy")
    shutil.copytree(folder, tmp_path / "m")
    torch.save({}, tmp_path / "m" / "pytorch_model.bin"), (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no .*safetensors, only pytorch_model.bin"): load(tmp_path / "m")
    told = json.loads((folder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(dict(told, model_type="llama")))
    for f in (load, Coder.load):
        with pytest.raises(ValueError, match="'llama'.*qwen2_5_vl, qwen3_vl, qwen3_5.*add_a_family"): f(tmp_path / "m")
    for f in (load, lambda x: load_adapter(load(folder), x, "policy")):
        with pytest.raises(ValueError, match="no such folder"): f(tmp_path / "nowhere")

def test_flash_attention_where_it_cannot_run(folder):
    with pytest.raises(ValueError, match="flash-attn, which is not installed; a GPU"): load(folder, attention="flash_attention_2", device="cpu")

def test_an_adapter_on_the_hub_comes_without_pickles(folder, ready, tmp_path, monkeypatch):
    import huggingface_hub
    asked, (_, adapter) = [], trained(folder, ready[0], tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: asked.append((name, allow_patterns)) or str(adapter))
    load_adapter(load(folder), "someone/adapter", "policy")
    assert asked == [("someone/adapter", ["adapter_config.json", "adapter_model.safetensors"])]

def test_a_tokenizer_of_another_checkpoint(folder, tmp_path):
    import shutil
    shutil.copytree(folder, tmp_path / "m")
    train_tokenizer(["other words"], 280).save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="one checkpoint"): Coder.load(tmp_path / "m")


def real_config(s):
    "A released model's config, from the sizes written down in `families`."
    from transformers import AutoConfig
    text = dict(hidden_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads, num_key_value_heads=s.kv, intermediate_size=s.inter, vocab_size=s.vocab, head_dim=s.head)
    vision = dict(hidden_size=s.v_hidden, depth=s.v_layers, intermediate_size=s.v_inter, out_hidden_size=s.hidden)
    if s.nets: text |= dict(zip([f"linear_{name}" for name in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")], s.net))
    if s.deep: vision |= dict(deepstack_visual_indexes=[i * s.v_layers // (s.deep + 1) for i in range(1, s.deep + 1)], num_position_embeddings=s.places)
    return AutoConfig.for_model(s.model_type, text_config=text, vision_config=vision, tie_word_embeddings=s.tied)

@pytest.mark.parametrize("name", some(["3b", "7b", "4b", "8b", "qwen3.5-4b", "qwen3.5-9b"], ("3b", "7b", "4b", "qwen3.5-4b")))
def test_the_true_shapes(name):
    from transformers import AutoModelForImageTextToText
    s, size = Shape.known[name], lambda ps: sum(p.numel() for p in ps)
    with torch.device("meta"): model = AutoModelForImageTextToText.from_config(real_config(s))
    model.tie_weights()
    told, vl = parameters(s), model.model
    linears = [m.weight for n, m in vl.language_model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(linears) == 7 * s.attending + 8 * s.nets and size(linears) == told["linears"]
    assert size({p for p in (vl.language_model.embed_tokens.weight, model.lm_head.weight)}) == told["embeddings"]
    assert size(p for p in vl.visual.parameters() if p.ndim > 1) == told["vision"]
    with torch.device("meta"): model = add_lora(model, FAMILIES[s.model_type], rank=16, vision=True)
    added = {n: p.numel() for n, p in model.named_parameters() if "lora_" in n}
    assert sum(v for n, v in added.items() if "language_model" in n) == lora_parameters(s, 16)
    assert sum("visual" in n and "lora_A" in n for n in added) == s.v_layers * (5 if s.model_type == "qwen2_5_vl" else 4) # those of the newer towers have no gate
