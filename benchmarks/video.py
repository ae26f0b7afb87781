"""Sixteen frames out of clips of 10, 60 and 600 s at 360p and 720p: each decoder in turn, our default beside the best of them, the frame cache, and patchify beside the family's own."""
import argparse, json, sys, tempfile, time
from functools import partial
from pathlib import Path
from unittest.mock import patch
import av, numpy as np, torch
from common import ROOT, child, machine, show
from videop2r.engine import decode as decoding
from videop2r.engine.decode import decoders, read_clip, read_media
from videop2r.families import FAMILIES
from videop2r.data import Record
from videop2r.engine.media import Reader
from videop2r.video import shrink

FAMILY, THREADS = FAMILIES["qwen2_5_vl"], ("SLICE", "FRAME", "AUTO", "NONE")

def film(path, seconds, h, fps=25):
    "A camera that pans over coloured tiles, with noise; a key frame every ten seconds, as encoders make them."
    w, rng = h * 16 // 9 // 2 * 2, np.random.default_rng(0)
    wall = np.kron(rng.integers(0, 256, (h // 8, w // 8 + 40, 3)), np.ones((8, 8, 1))).astype(np.int16)
    noise = [rng.integers(-9, 10, (h, w, 1), dtype=np.int16) for _ in range(4)]
    with av.open(str(path), "w") as out:
        s = out.add_stream("libx264", rate=fps, options=dict(preset="veryfast", g="250", crf="23"))
        s.width, s.height, s.pix_fmt = w, h, "yuv420p"
        for i in range(seconds * fps):
            k = i % (wall.shape[1] - w)
            out.mux(s.encode(av.VideoFrame.from_ndarray((wall[:h, k:k + w] + noise[i % 4]).clip(0, 255).astype(np.uint8))))
        out.mux(s.encode())

def best(work, repeat):
    "Least seconds, and the last result."
    least = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        value = work()
        least = min(least, time.perf_counter() - start)
    return least, value

def pyav(path, threads):
    with patch.object(decoding, "_stream", partial(decoding._stream, threads=threads)): return read_clip(path, 16, decoder="pyav")

def decode(path, repeat):
    "Seconds of every way to decode, and whether all frames are the same."
    ways = {"ours": lambda: read_clip(path, 16), **{f"pyav {t.lower()}": (lambda t=t: pyav(path, t)) for t in THREADS}, **{d: (lambda d=d: read_clip(path, 16, decoder=d)) for d in decoders() if d != "pyav"}}
    found = {}
    for name in [n for _ in range(repeat) for n in ways]: # in turn, so that whatever else the machine does falls on all of them
        seconds, clip = best(ways[name], 1)
        found[name] = min(seconds, found.get(name, (seconds,))[0]), clip
    return {k: s for k, (s, _) in found.items()}, all((c.frames == found["ours"][1].frames).all() for _, c in found.values())

def cached(path, repeat, folder):
    reader, row = Reader(path.parent, cache=folder), Record(path=path.name)
    reader.clip(row, FAMILY)
    hit, _ = best(lambda: reader.clip(row, FAMILY), 5 * repeat)
    return hit, best(lambda: shrink(read_media(path, "video", 16), FAMILY), repeat)[0]

PATCHIFY = """
import sys, time, types
sys.path.insert(0, sys.argv[1]); sys.modules["torchvision._meta_registrations"] = types.ModuleType("x")
import torch
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor as P
from videop2r.families import FAMILIES
from videop2r.video import Clip, prepare
f = FAMILIES["qwen2_5_vl"]
p = P(do_sample_frames=False, cap_pixels_per_frame=False, image_mean=f.mean, image_std=f.std, size=dict(shortest_edge=f.min_pixels, longest_edge=f.max_pixels))
x = torch.randint(0, 256, (16, 3, int(sys.argv[2]), int(sys.argv[3])), dtype=torch.uint8); c = Clip(x.permute(0, 2, 3, 1).contiguous().numpy(), 2.)
def best(work):
    times = []
    for _ in range(9):
        start = time.perf_counter(); work(); times.append(time.perf_counter() - start)
    return min(times)
print(best(lambda: p(videos=[x], return_tensors="pt")), best(lambda: prepare(c, f)))
"""

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--repeat", type=int, default=3, help="the fastest counts")
    p.add_argument("--seconds", type=int, nargs="+", default=[10, 60, 600])
    p.add_argument("--json", action="store_true")
    a, rows = p.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in a.seconds:
            for h in (360, 720):
                path = Path(folder) / f"{seconds}-{h}.mp4"
                film(path, seconds, h)
                took, same = decode(path, a.repeat)
                hit, miss = cached(path, a.repeat, Path(folder) / "cache")
                rows.append({"clip": f"{seconds} s {h}p", **{k: s for k, s in took.items()}, "ours frames/s": 16 / took["ours"], "best / ours": min(took.values()) / took["ours"], "same frames": same, "miss / hit": miss / hit})
                path.unlink()
    show(rows, a.json, machine("torch", "av", "decord", "torchcodec") | dict(threads=torch.get_num_threads()))
    tv = Path(sys.prefix) / "torchvision"
    if tv.exists():
        print()
        pairs = {f"{h} x {w}": [float(x) for x in child("-c", PATCHIFY, tv, h, w)["out"].split()] for h, w in ((280, 350), (360, 640), (720, 1280))}
        show([{"16 frames of": k, "the family's own, s": theirs, "ours, s": ours, "theirs / ours": theirs / ours} for k, (theirs, ours) in pairs.items()], a.json, machine("torch", "transformers"))

if __name__ == "__main__": main()
