"""Draw nbs/images/clip.gif: a clip, two responses of the embedded teacher to it, and what each method credits them with."""
import json
from pathlib import Path
import torch
from PIL import Image, ImageDraw, ImageFont
from matplotlib import get_data_path
from videop2r.advantages import credit, normalise
from videop2r.cot import SHORT
from videop2r.data import read_records
from videop2r.engine.decode import read_media
from videop2r.engine.paint import ARMS, GROUND, INK, TEXT
from videop2r.engine.reading import to_prompts
from videop2r.judge import ORACLE
from videop2r.model import Policy
from videop2r.recipe import Recipe
from videop2r.rollout import collect

ROOT = Path(__file__).resolve().parent.parent
SAMPLES, OUT = ROOT / "data_samples", ROOT / "nbs" / "images" / "clip.gif"
WHICH, FRAMES, SIZE = "embedded-heldout-00019", 16, (880, 336)
ANSWERED, SEEN = "saw wrong, answered right", "saw right, answered wrong"

def font(size, bold=False): return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf", size)

def group():
    "The record, eight responses to it, their rewards and what each method makes of them."
    record = next(r for r in read_records(SAMPLES / "heldout.jsonl") if r.problem_id == WHICH)
    policy = Policy.load(SAMPLES / "teacher")
    prompts, records, _ = to_prompts(policy.coder, [record], SAMPLES, SHORT, 8)
    with torch.no_grad(): features = policy.see([p.visual for p in prompts])
    how = dict(g=8, recipe=Recipe(bounds="short", how="lenient"), limit=96, reference=None)
    rollout = collect(policy, records, prompts, features, ORACLE, generator=torch.Generator().manual_seed(0), **how)
    advantages = {arm: normalise(credit(rollout.table.total(), arm))[0].tolist() for arm in ("grpo", "pagrpo")}
    return dict(problem_id=WHICH, texts=rollout.texts, rewards=rollout.table.total().tolist(),
                accuracy=rollout.table.accuracy.tolist(), advantages=advantages)

def chosen(found):
    "The response that saw wrong and answered right, and the one that saw right and answered wrong."
    return [(title, found["accuracy"].index(pair)) for title, pair in ((ANSWERED, [0., 1.]), (SEEN, [1., 0.]))]

def words(text):
    "Each word with the process that it belongs to."
    seen, rest = text.split("</observation>")
    return [(w, "perception") for w in (seen + "</observation>").split()] + [(w, "reasoning") for w in rest.split()]

def write(draw, text, left, top, right):
    "A response in the colours of its processes; where the next line begins."
    x, y, letters = left, top, font(14)
    for word, process in words(text):
        width = draw.textlength(word + " ", letters)
        if x + width > right: x, y = left, y + 26
        draw.rectangle((x, y, x + width, y + 19), fill=GROUND[process])
        ends = (20,) if process == "perception" else (20, 22) # one line or two: told apart without colour
        for at in ends: draw.line((x, y + at, x + width, y + at), fill=INK[process])
        draw.text((x + 2, y + 1), word, fill=TEXT, font=letters)
        x += width
    return y + 28

def mark(value): return f"{'▲' if value > 0 else '▼'} {value:+.2f}".replace("-", "−")

def card(record, found):
    "All that stands still."
    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((258, 14), record.problem, fill=TEXT, font=font(17, True))
    draw.text((258, 40), f"True answer: {record.options['ABCD'.index(record.answer)][3:]}", fill=INK["prompt"], font=font(14))
    y = 72
    for title, i in chosen(found):
        draw.text((258, y), title, fill=TEXT, font=font(14, True))
        y = write(draw, found["texts"][i], 258, y + 24, SIZE[0] - 12)
        for at, arm in enumerate(("grpo", "pagrpo")):
            seen, told = (mark(a) for a in found["advantages"][arm][i])
            said = f"{ARMS[arm]}: observation {seen}, thought and answer {told}"
            draw.text((258, y + 20 * at), said, fill=TEXT, font=font(13, arm == "pagrpo"))
        y += 56
    return picture

def main():
    record = next(r for r in read_records(SAMPLES / "heldout.jsonl") if r.problem_id == WHICH)
    clip, found = read_media(SAMPLES / record.path, "video", FRAMES), group()
    still, frames = card(record, found), []
    for frame in clip.frames:
        frames.append(still.copy())
        frames[-1].paste(Image.fromarray(frame).resize((226, 226), Image.NEAREST), (14, 72))
    palette = frames[0].quantize(64)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    told = json.dumps(found).encode()
    flat[0].save(OUT, save_all=True, append_images=flat[1:], duration=[140] * (len(flat) - 1) + [900], loop=0, optimize=True, comment=told)
    print(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size:,} bytes")

if __name__ == "__main__": main()
