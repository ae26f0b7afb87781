"""A second device without one: tensors whose numbers lie on the CPU, and which an operation refuses to mix with the CPU's, as CUDA does.

They bear the label `meta`, for which autograd needs no device of its own, so a backward pass runs as well. Every time the host would
have to wait for the device, and every operation that would be a kernel there, is counted by the line of ours that asked for it."""
import sys, traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE, aten = torch.device("meta"), torch.ops.aten
OURS = str(Path(__file__).resolve().parent.parent / "videop2r")
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2, aten.unique_dim, aten.bincount,
         aten.repeat_interleave, aten.item}
INDEXED = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}

class There(torch.Tensor):
    "A tensor on the second device."
    @staticmethod
    def __new__(cls, raw):
        made = torch.Tensor._make_wrapper_subclass(cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE, requires_grad=False)
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): raise RuntimeError(f"{func}: the second device is off; use it within `card()`")
    def __repr__(self, **kw): return f"There({self.raw!r})"
    def tolist(self): return self.detach().cpu().tolist()
    def numpy(self, **kw): raise TypeError("can't convert a tensor of the second device to numpy; use Tensor.cpu() first")
    __array__ = numpy
    def __getitem__(self, index): return super().__getitem__(_index(index))
    def __setitem__(self, index, value): super().__setitem__(_index(index), value)

def _index(index):
    "A list among the indices as a tensor, which this label would leave without numbers."
    if isinstance(index, tuple): return tuple(map(_index, index))
    return torch.tensor(index).to(DEVICE) if isinstance(index, list) else index

def raw(x): return x.raw if isinstance(x, There) else x

def _is_card(device): return device is not None and torch.device(device).type == DEVICE.type

def _asked_by():
    "The line of ours that is at work."
    for frame in reversed(traceback.extract_stack(sys._getframe(2))):
        if frame.filename.startswith(OURS): return f"{Path(frame.filename).stem}.{frame.name}"
    return "elsewhere"

class Card(TorchDispatchMode):
    "What happens on the second device, and how often."
    def __init__(self, watch=False):
        super().__init__()
        self.watch, self.waits, self.kernels = watch, Counter(), Counter()

    def _count(self, func, there, args, kwargs):
        packet, waits = func.overloadpacket, False
        if packet in WAITS: waits = True
        if packet in INDEXED: waits = any(isinstance(i, There) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if func in COPIES:
            source, target = (args[1], args[0]) if func is not aten._to_copy.default else (args[0], kwargs.get("device"))
            to_host = not isinstance(target, There) if isinstance(target, torch.Tensor) else target is not None and not _is_card(target)
            waits = isinstance(source, There) and to_host
        if waits: self.waits[_asked_by()] += 1
        if not func.is_view: self.kernels[_asked_by() if self.watch else ""] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if isinstance(x, There)]
        asked = kwargs.get("device")
        if not there and not _is_card(asked): return func(*args, **kwargs)
        if there: self._check(func, tensors, args)
        self._count(func, there, args, kwargs)
        if func is aten._fused_sdp_choice.default: return 0 # attention by plain mathematics
        plain = dict(kwargs, device="cpu") if asked is not None else kwargs
        found = func(*tree_map(raw, args), **tree_map(raw, plain))
        return self._result(func, found, args, there, asked)

    def _check(self, func, tensors, args):
        if func in COPIES: return
        here = [x for x in tensors if not isinstance(x, There) and x.ndim]
        if func.overloadpacket in INDEXED: here = [x for x in here if not any(x is i for i in args[1])] # an index may lie on the host
        if here: raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, card:0 and cpu! (in {func})")

    def _result(self, func, found, args, there, asked):
        if func._schema.is_mutable and isinstance(found, torch.Tensor): # in place: the same tensor
            for x in args:
                if raw(x) is found: return self._renewed(x, found)
        if asked is not None and not _is_card(asked): return found
        if asked is None and not there: return found
        if func is aten.copy_.default and not isinstance(args[0], There): return args[0]
        return tree_map(lambda x: There(x) if isinstance(x, torch.Tensor) else x, found)

    @staticmethod
    def _renewed(x, found):
        if isinstance(x, There) and x.shape != found.shape: raise NotImplementedError("an operation in place that changes a shape")
        return x

def moved(model):
    "The model with all its numbers on the second device; within `card()`."
    for module in model.modules():
        for name, each in list(module._parameters.items()):
            if each is not None: module._parameters[name] = torch.nn.Parameter(There(each.detach()), each.requires_grad)
        for name, each in list(module._buffers.items()):
            if each is not None: module._buffers[name] = There(each)
    return model

@contextmanager
def card(watch=False):
    "Within the block there is a second device; `watch` tells whose line each kernel is."
    generator, makers = torch.Generator, {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
    def of_list(make): # which leaves what it makes for this label without numbers
        def made(data, *args, device=None, **kw):
            found = make(tree_map(lambda x: x.item() if isinstance(x, There) else x, data), *args, **kw)
            return found if device is None else found.to(device)
        return made
    torch.Generator = lambda device="cpu": generator() # numbers of luck come from the host there
    for name, make in makers.items(): setattr(torch, name, of_list(make))
    try:
        with Card(watch) as found: yield found
    finally:
        torch.Generator = generator
        for name, make in makers.items(): setattr(torch, name, make)
