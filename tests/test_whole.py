"One product a layer: the same as PEFT's several, made anew for each block, and left alone where it would not be the same."
import contextlib
from pathlib import Path
import pytest, torch
from peft import LoraConfig, get_peft_model
import videop2r.model, videop2r.engine.whole as place
from videop2r.cot import SHORT
from videop2r.data import read_jsonl
from videop2r.engine.reading import to_prompts
from videop2r.engine.whole import whole_weights
from videop2r.model import Policy, add_lora, load
from videop2r.tokens import Coder
import videop2r.sampling # gives Policy its `sample`

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
CODER = Coder.load(SAMPLES / "base")
PROMPTS = to_prompts(CODER, read_jsonl(SAMPLES / "train.jsonl")[:3], SAMPLES, SHORT, 4)[0]

def adapted(nf4=True, dtype=None, name="policy", **lora):
    "The embedded base with an adapter whose product is not 0."
    torch.manual_seed(0)
    model = load(SAMPLES / "base", nf4=nf4, dtype=dtype)
    if lora: model = get_peft_model(model, LoraConfig(r=4, target_modules=CODER.family.lora_targets, **lora), adapter_name=name)
    else: model = add_lora(model, CODER.family, rank=4, name=name)
    for key, weight in model.named_parameters():
        if "lora_B" in key: torch.nn.init.normal_(weight, std=.05)
    return model.eval()

def inner(model): return model.get_base_model().model.language_model.layers[1].mlp.down_proj

def taken(model): return [each for each in model.get_base_model().model.language_model.modules() if "forward" in vars(each)]

def both(model, layer=None):
    "What a layer says as it is, and within the block."
    layer = layer or inner(model)
    x = torch.randn(5, layer.in_features)
    with torch.no_grad():
        by_parts = layer(x)
        with whole_weights(model): return by_parts, layer(x)

def test_one_product_is_peft_s_several():
    model = adapted()
    by_parts, at_once = both(model)
    assert (by_parts - at_once).abs().max() < 1e-5 * by_parts.abs().max()
    with torch.no_grad(), whole_weights(model): assert len(taken(model)) == 28 # seven in each of four layers
    with torch.no_grad(), model.disable_adapter():
        by_parts, at_once = both(model)
        assert (by_parts - at_once).abs().max() < 1e-5 * by_parts.abs().max()

def test_it_is_what_peft_adds_to_the_weights_in_full():
    "PEFT's merging puts a sum back into four bits; its delta on the weights that transformers itself makes whole does not."
    model, x = adapted(), torch.randn(5, 384)
    layer = inner(model)
    with torch.no_grad():
        with whole_weights(model): ours = layer(x)
        delta = layer.get_delta_weight("policy")
        full = model.get_base_model().dequantize().model.language_model.layers[1].mlp.down_proj
        base = getattr(full, "base_layer", full)
        theirs = x.double() @ (base.weight.double() + delta.double()).T
    assert (ours - theirs).abs().max() < 1e-5

def test_a_bare_base_in_four_bits_is_taken_and_one_in_full_is_not():
    small, full = load(SAMPLES / "base", nf4=True), load(SAMPLES / "base")
    layer = small.model.language_model.layers[1].mlp.down_proj
    by_parts, at_once = both(small, layer)
    assert (by_parts - at_once).abs().max() < 1e-5 * by_parts.abs().max()
    with torch.no_grad(), whole_weights(full): assert not any("forward" in vars(each) for each in full.model.language_model.modules())

def test_what_would_not_be_the_same_is_left_alone(monkeypatch):
    "Half precision, gradients, autocast, dropout in training, DoRA, a base in full, a merged adapter, a forward of somebody else's, too much memory."
    def none(model, count=0):
        with torch.no_grad(), whole_weights(model): assert len(taken(model)) == count
    none(adapted(dtype=torch.bfloat16))
    model = adapted()
    with whole_weights(model): assert not taken(model)
    with torch.autocast("cpu", torch.bfloat16): none(model)
    none(adapted(lora_dropout=.1).train())
    none(adapted(lora_dropout=.1), 28)
    none(adapted(use_dora=True)), none(adapted(nf4=False))
    merged = adapted()
    merged.merge_adapter()
    none(merged)
    model, own = adapted(), lambda x: x
    inner(model).forward = own
    none(model, 28)
    assert inner(model).forward is own
    monkeypatch.setattr(place, "ROOM", 1000)
    none(adapted())

def test_all_is_as_before_after_a_fault_and_a_block_takes_the_adapter_as_it_is_then():
    model = adapted()
    with pytest.raises(KeyError), torch.no_grad(), whole_weights(model):
        with whole_weights(model): assert len(taken(model)) == 28 # a block within a block
        assert len(taken(model)) == 28
        raise KeyError
    assert not taken(model)
    first = both(model)[1]
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key: weight.mul_(3)
    torch.manual_seed(1)
    by_parts, at_once = both(model)
    assert first.shape == at_once.shape and (by_parts - at_once).abs().max() < 1e-5 * by_parts.abs().max()

def test_samples_are_those_of_the_plain_way(monkeypatch):
    policy = Policy(adapted(), CODER)
    def draw(): return policy.sample(PROMPTS, 4, 24, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    ours = draw()
    monkeypatch.setattr(videop2r.model, "whole_weights", lambda model: contextlib.nullcontext())
    plain = draw()
    assert torch.equal(ours.ids, plain.ids) and (ours.logprobs - plain.logprobs).abs().max() < 1e-4
