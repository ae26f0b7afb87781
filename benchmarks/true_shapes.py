"""Memory of every stage at true shapes, counted without weights: a model of each size on `meta`, with bitsandbytes' own four-bit layers, and every storage from its birth to its death.

Numbers that decide shapes (ids, masks, places) are real and count nothing; all others are shapes alone. Attention goes to the kernels that CUDA would take: flash without a mask, the memory-efficient one
with one. A four-bit product of more than 64 rows unpacks its matrix for as long as it lasts. GB are those above weights, adapters and optimiser, at the peak of a stage; beside them the plan's, and their ratio.
No allocator's gaps and no kernel's workspace are in these counts.
"""
import argparse, math, sys, time
from dataclasses import replace
from functools import partial
from unittest.mock import patch
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from common import machine, show
from videop2r.engine.decoding import decode
from videop2r.families import shape_of
from videop2r.model import Policy, add_lora
from videop2r.tools import rehearse
from videop2r.tools.launch import PRESETS
from videop2r.tools.plan import _START as START
from videop2r.tools.rehearse import Stand, hollow

aten, META = torch.ops.aten, torch.device("meta")

def _real(x): return isinstance(x, torch.Tensor) and x.device.type != "meta"
def _shape_only(x): return isinstance(x, torch.Tensor) and x.device.type == "meta"
def _bytes(n): return math.ceil(n / 512) * 512

def as_cuda_does(q, k, v, attn_mask=None, dropout_p=0., is_causal=False, scale=None, enable_gqa=False):
    "Attention by flash, or by the memory-efficient kernel under a mask, which becomes numbers first."
    if enable_gqa: k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if attn_mask is None: return aten._scaled_dot_product_flash_attention(q, k, v, 0., is_causal, False, scale=scale)[0]
    bias = torch.empty(attn_mask.shape, dtype=q.dtype, device=q.device).expand(*q.shape[:3], k.shape[2])
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, 0., is_causal, scale=scale)[0]

class Shapes(TorchDispatchMode):
    "Floats are shapes on `meta`, all other numbers real; counts the bytes of the storages that are alive."
    def __init__(self):
        super().__init__()
        self.alive, self.always, self.now, self.peak, self.kernels = {}, {}, 0, 0, 0

    def __enter__(self):
        self.makers = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
        for name, make in self.makers.items(): setattr(torch, name, self._of_list(make))
        self.listed, self.attention = torch.Tensor.tolist, F.scaled_dot_product_attention
        F.scaled_dot_product_attention = as_cuda_does
        torch.Tensor.tolist = lambda x: self.listed(torch.zeros(x.shape) if _shape_only(x) else x)
        return super().__enter__()

    def __exit__(self, *error):
        for name, make in self.makers.items(): setattr(torch, name, make)
        torch.Tensor.tolist, F.scaled_dot_product_attention = self.listed, self.attention
        return super().__exit__(*error)

    @staticmethod
    def _of_list(make): # which leaves what it makes on `meta` without numbers
        def made(data, *args, device=None, **kw):
            found = make(data, *args, **kw)
            return found.to(device) if device is not None and found.is_floating_point() else found
        return made

    def reset(self): self.sweep(), setattr(self, "peak", self.now)

    def sweep(self):
        for key in [key for key, (ref, _) in self.alive.items() if ref.expired()]: self.now -= self.alive.pop(key)[1]

    def stands(self, tensors):
        "These are there all the time, and count nothing."
        self.always = {x.untyped_storage()._cdata: x.untyped_storage() for x in tensors}

    def _born(self, x):
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.always: return
        if key in self.alive and not self.alive[key][0].expired(): return
        if key in self.alive: self.now -= self.alive.pop(key)[1]
        self.alive[key] = (StorageWeakRef(storage), size := _bytes(storage.nbytes()))
        self.now += size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        self.kernels += not func.is_view
        flat = tree_flatten((args, kwargs))[0]
        made_here = not any(map(_shape_only, flat))
        asked = kwargs.get("device")
        if made_here and (asked is None or torch.device(asked).type != "meta"): return func(*args, **kwargs)
        packet = func.overloadpacket
        if packet is aten._local_scalar_dense: return 0.
        if packet is aten._to_copy and _real(args[0]) and not args[0].is_floating_point(): return func(*args, **dict(kwargs, device="cpu"))
        if made_here and not self._floats(func, kwargs): return func(*args, **dict(kwargs, device="cpu"))
        if packet in (aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_): args = self._by_places(args)
        if packet is aten.copy_ and _real(args[0]): return args[0]
        room = self._unpacked(packet, args)
        found = func(*tree_map(self._to_meta, args), **tree_map(self._to_meta, dict(kwargs, device="meta") if asked is not None else kwargs))
        truth = packet in (aten.eq, aten.ne) and (packet is aten.eq) == (len(args) > 1 and args[0] is args[1]) # every number is finite
        out = tree_map(lambda x: self._as_it_counts(x, truth), found)
        for x in tree_flatten(out)[0]:
            if _shape_only(x): self._born(x)
        if self.now + room > self.peak: # with what has died since
            self.sweep()
            self.peak = max(self.peak, self.now + room)
        return out

    @staticmethod
    def _floats(func, kwargs):
        return (kwargs.get("dtype") or torch.get_default_dtype()).is_floating_point and not func.name().startswith("aten::arange")

    @staticmethod
    def _to_meta(x): return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta") if _real(x) else x

    @staticmethod
    def _as_it_counts(x, truth):
        return torch.full(x.shape, int(truth), dtype=x.dtype) if _shape_only(x) and not x.is_floating_point() else x

    @staticmethod
    def _by_places(args):
        "Masks among the indices as the places where they are true."
        places = []
        for i in args[1]:
            if _real(i) and i.dtype == torch.bool: places += i.nonzero(as_tuple=True)
            else: places.append(i)
        return (args[0], places, *args[2:])

    @staticmethod
    def _unpacked(packet, args):
        "Bytes of a four-bit matrix while it is used, where a card unpacks it."
        if packet.__name__ != "gemm_4bit": return 0
        return 2 * math.prod(args[2]) if args[0].numel() // args[0].shape[-1] > 64 else 0

RUN = {stage: work for stage, (work, _) in Stand.stages.items()}

def _sft(s):
    "A step of SFT under a card's autocast, in which adapters go in the base's precision."
    with s.policy.light(): RUN["a step of SFT"](s)

def _drawn(s):
    "Three tokens of each response, after two of which a quarter of the rows leave; the blocks for all of them stand."
    with patch.object(rehearse, "decode", partial(decode, look=2)): RUN["tokens are drawn"](s, 3, leave=True)

_LARGEST = dict(sampling="tokens are drawn", reference="the reference reads", update="the update", sft="a step of SFT") # what a plan's stage is about

COUNTED = {**RUN, "a step of SFT": _sft, "tokens are drawn": _drawn}

def policy_of(model, preset, **changes):
    "A hollow model of a size with a trainable adapter, and the plan's settings for it."
    shape = shape_of(model)
    told = preset.planned(model, **changes)
    coder = shape.coder()
    model = hollow(shape.config(coder), preset.nf4)
    for module in model.modules():
        for name, each in list(module._buffers.items()):
            if each is not None and each.is_floating_point(): module._buffers[name] = each.to(META)
    with torch.device("meta"): model = add_lora(model, coder.family, rank=told.settings.rank)
    for name, each in model.named_parameters():
        if "lora_" in name: each.data = each.data.float()
    return Policy(model, coder), told

STAGES = ("a clip is seen", *_LARGEST.values())

def counted(model, preset, stages=STAGES):
    "A row for each stage: GB counted, the plan's, and their ratio."
    policy, told = policy_of(model, preset)
    rows, s = [], None
    stays = sum(told.stages["sft"][part] for part in ("weights", "adapters", "overhead")) # where no adapter has a copy
    with Shapes() as shapes:
        shapes.stands([*policy.model.parameters(), *policy.model.buffers()])
        s = Stand.of(policy, told.settings, preset.rl, preset.sft)
        for each in s.prompts: each.visual.patches = each.visual.patches.to(META)
        s.words = s.words.cpu()
        for stage in stages:
            shapes.reset()
            start, before = time.perf_counter(), shapes.now
            COUNTED[stage](s)
            gb, planned = (shapes.peak - before) / 1e9, Stand.stages[stage][1]
            row = {"model": model, "stage": stage, "GB": gb, "plan's GB": told.peaks[planned] - stays if planned else None, "stands, GB": stays}
            row["plan / counted"] = row["plan's GB"] / gb if planned and stage == _LARGEST[planned] else None
            rows.append(dict(row, **{"counted in, s": time.perf_counter() - start}))
            print(model, stage, f"{gb:.2f} GB", file=sys.stderr, flush=True)
    return rows

def _of_a_token(model, nf4, layers, nets=0):
    "Kernels that one more token starts in a model of so many layers, of which some are gated delta nets."
    preset, shape = replace(PRESETS["16gb"], nf4=nf4), replace(shape_of(model), layers=layers, nets=nets, v_layers=5)
    policy, told = policy_of(shape, preset, frames=2, slices=1)
    with Shapes() as shapes, patch.object(rehearse, "decode", partial(decode, look=99)):
        s = Stand.of(policy, told.settings, preset.rl, preset.sft)
        for each in s.prompts: each.visual.patches = each.visual.patches.to(META)
        s.words = s.words.cpu()
        RUN["a clip is seen"](s)
        def count(tokens):
            s.settings, before = replace(told.settings, completion=tokens), shapes.kernels
            RUN["tokens are drawn"](s, tokens)
            return shapes.kernels - before
        return count(4) - count(3)

def kernels(model, nf4):
    "(in a layer, in all else, in a gated delta net where there are any) that a new token of some rows starts: from models of three and four layers."
    if shape_of(model).nets:
        three, more, mixed = (_of_a_token(model, nf4, *sizes) for sizes in ((3, 3), (4, 4), (4, 3)))
        return mixed - three, three - 3 * (more - three), more - three
    three, four = (_of_a_token(model, nf4, layers) for layers in (3, 4))
    return four - three, three - 3 * (four - three)

def kernel_rows(models):
    "A row for each size and kind of weights."
    for model in models:
        for nf4 in (True, False):
            (layer, rest, *net), shape = kernels(model, nf4), shape_of(model)
            all_ = layer * shape.attending + rest + sum(net) * shape.nets
            yield dict(model=model, weights="nf4" if nf4 else "bf16", **{"a layer": layer, "a gated delta net": net[0] if net else "", "all else": rest, "a token": all_, "ms to start them": all_ * START * 1000})

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["3b", "7b", "4b", "8b"], help="sizes of Qwen2.5-VL (3b, 7b), Qwen3-VL (4b, 8b) and Qwen3.5 (qwen3.5-4b, qwen3.5-9b)")
    parser.add_argument("--presets", nargs="+", default=["12gb", "16gb", "24gb", "48gb", "80gb"])
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--kernels", action="store_true", help="the kernels that a token starts, in place of memory")
    args = parser.parse_args()
    if args.kernels: sys.exit(show(list(kernel_rows(args.models)), args.json, machine("torch", "transformers", "peft", "bitsandbytes")))
    about, rows = machine("torch", "bitsandbytes"), []
    for preset in args.presets:
        for model in args.models:
            rows += (some := [dict(preset=preset, **row) for row in counted(model, PRESETS[preset])])
            if args.json: show(some, True, about)
    if not args.json: show([{name: "" if row[name] is None else row[name] for name in row} for row in rows], False, about)
