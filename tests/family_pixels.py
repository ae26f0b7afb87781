"""What the model families' own video processors make of given frames; run as a program, since torchvision must be in place before transformers looks for it.
usage: family_pixels.py FOLDER_OF_TORCHVISION OUT.npz"""
import os, sys, types

CASES = [(2, 84, 84), (3, 90, 122), (4, 360, 640), (5, 240, 426), (6, 20, 300), (16, 128, 96), (8, 700, 60), (7, 31, 33)]
PIXELS = dict(min_pixels=4 * 784, max_pixels=128 * 784)

def frames(f, h, w):
    import numpy as np
    y, x = np.mgrid[:h, :w]
    a = np.random.default_rng(f * h * w).integers(0, 60, (f, h, w, 3))
    return (a + (x * 120 // w + y * 60 // h)[None, :, :, None] + 5 * np.arange(f)[:, None, None, None]).clip(0, 255).astype(np.uint8)

def processors():
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor as Two
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor as Three
    low, high = PIXELS.values()
    yield "qwen2.5-vl", lambda n: Two(do_sample_frames=False, image_mean=CLIP[0], image_std=CLIP[1], size=dict(shortest_edge=low, longest_edge=high), cap_pixels_per_frame=False)
    yield "qwen3-vl", lambda n: Three(do_sample_frames=False, image_mean=[.5] * 3, image_std=[.5] * 3, size=dict(shortest_edge=n * low, longest_edge=n * high), cap_pixels_per_frame=False)

CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

def main(folder, out):
    sys.path.insert(0, folder)
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations") # they need torchvision's own build of torch
    import numpy as np, torch, torchvision, transformers
    made = dict(versions=[f"transformers {transformers.__version__}", f"torchvision {torchvision.__version__}"])
    for name, processor in processors():
        for case in CASES:
            o = processor(case[0])(videos=[torch.from_numpy(frames(*case)).permute(0, 3, 1, 2)], return_tensors="np")
            made[f"{name} {case} pixels"], made[f"{name} {case} grid"] = o["pixel_values_videos"], o["video_grid_thw"][0]
    np.savez(out, **made)

if __name__ == "__main__": main(*sys.argv[1:])
