"""Batches made by the families' own processors; run as a program, since torchvision must be in place before transformers looks for it.
usage: family_batch.py FOLDER_OF_TORCHVISION, then a line of JSON for each job on standard input: [FAMILY, FOLDER_OF_TOKENIZER, CASES.json, OUT.npz], where the family `saved` is what the folder
itself says. A line comes back for each: null, or what went wrong."""
import json, sys, traceback, types
from family_pixels import CLIP, PIXELS, frames

def qwen2_5(tokenizer):
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Images
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor as Videos
    size = dict(size=dict(zip(("shortest_edge", "longest_edge"), PIXELS.values())), image_mean=CLIP[0], image_std=CLIP[1])
    return Qwen2_5_VLProcessor(Images(**size), tokenizer, Videos(do_sample_frames=False, cap_pixels_per_frame=False, **size))

def qwen3(tokenizer):
    from transformers import Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Images
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor as Videos
    size = lambda n: dict(size={k: n * v for k, v in zip(("shortest_edge", "longest_edge"), PIXELS.values())}, image_mean=[.5] * 3, image_std=[.5] * 3)
    return Qwen3VLProcessor(Images(patch_size=16, **size(1)), tokenizer, Videos(do_sample_frames=False, cap_pixels_per_frame=False, **size(4))) # a video's pixels are bounded together; these have 4 frames

def text_of(processor, row): return row["text"] if "text" in row else processor.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)

def one(processor, rows):
    "The processor's batch of rows (text or messages, kind, frames, fps), padded on the left."
    import torch
    from transformers.video_utils import VideoMetadata
    clip = lambda r: torch.from_numpy(frames(*r["frames"])).permute(0, 3, 1, 2)
    images = [frames(*r["frames"])[0] for r in rows if r["kind"] == "image"]
    videos = [r for r in rows if r["kind"] == "video"]
    more = dict(images=images) if images else {}
    if videos: more.update(videos=[clip(r) for r in videos], video_metadata=[VideoMetadata(total_num_frames=r["frames"][0], fps=r["fps"], frames_indices=list(range(r["frames"][0]))) for r in videos])
    return processor(text=[text_of(processor, r) for r in rows], padding=True, padding_side="left", return_tensors="np", **more)

def make(family, tokenizer, cases, out):
    import numpy as np
    from transformers import AutoProcessor, AutoTokenizer
    processor = AutoProcessor.from_pretrained(tokenizer) if family == "saved" else dict(qwen2_5_vl=qwen2_5, qwen3_vl=qwen3, qwen3_5=qwen3)[family](AutoTokenizer.from_pretrained(tokenizer))
    made = {}
    for name, rows in json.load(open(cases)).items():
        for k, v in one(processor, rows).items(): made[f"{name} {k}"] = np.asarray(v)
    np.savez(out, **made)

def main(folder):
    sys.path.insert(0, folder)
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations") # they need torchvision's own build of torch
    told, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try: said = make(*json.loads(line))
        except Exception: said = traceback.format_exc()
        print(json.dumps(said), file=told, flush=True)

if __name__ == "__main__": main(*sys.argv[1:])
