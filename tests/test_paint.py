"Colours are told apart without one of the three kinds of cone, and inks are read on their grounds."
import numpy as np
import pytest
from itertools import combinations
from videop2r.engine.paint import ABOVE, ARM_INK, BELOW, GROUND, INK, TEXT, shade

# What is left of linear RGB without long, middle or short cones: Machado, Oliveira and Fernandes (2009), severity 1.
KINDS = {
    "all": np.eye(3),
    "protanopia": np.array([[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]]),
    "deuteranopia": np.array([[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]]),
    "tritanopia": np.array([[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]])}

def linear(colour):
    c = np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= .04045, c / 12.92, ((c + .055) / 1.055) ** 2.4)

def lab(rgb):
    "CIELAB of linear sRGB under D65."
    xyz = np.array([[.4124564, .3575761, .1804375], [.2126729, .7151522, .0721750], [.0193339, .1191920, .9503041]]) @ np.clip(rgb, 0, 1)
    t = xyz / [.95047, 1, 1.08883]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

def distance(a, b, kind):
    "CIE94 between two colours as one kind of eye sees them."
    x, y = (lab(KINDS[kind] @ linear(c)) for c in (a, b))
    chroma = [np.hypot(*v[1:]) for v in (x, y)]
    light, dc = x[0] - y[0], chroma[0] - chroma[1]
    dh = max(0., np.sum((x - y)[1:] ** 2) - dc ** 2)
    return float(np.sqrt(light ** 2 + (dc / (1 + .045 * chroma[0])) ** 2 + dh / (1 + .015 * chroma[0]) ** 2))

def contrast(a, b):
    low, high = sorted(linear(c) @ [.2126, .7152, .0722] for c in (a, b))
    return (high + .05) / (low + .05)

@pytest.mark.parametrize("kind", KINDS)
def test_grounds_of_the_processes(kind):
    for a, b in combinations(("perception", "reasoning", "both"), 2): assert distance(GROUND[a], GROUND[b], kind) > 8, (a, b)

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", (.01, .3, 1.))
def test_above_and_below(kind, size): assert distance(shade(size, 1), shade(-size, 1), kind) > 10

@pytest.mark.parametrize("kind", KINDS)
def test_arms(kind):
    for a, b in combinations(ARM_INK.values(), 2): assert distance(a, b, kind) > 10, (a, b)

def test_inks_are_read():
    assert all(contrast(TEXT, g) > 7 for g in GROUND.values())
    assert all(contrast(ink, "#ffffff") > 3 for ink in (*INK.values(), *ARM_INK.values()))
    assert min(contrast(TEXT, shade(v, 1)) for v in (-1, 1)) > 4.5
    assert (ABOVE, BELOW) == ((0, 114, 178), (213, 94, 0))
    assert contrast("#ffffff", INK["prompt"]) > 4.5 and contrast(INK["prompt"], "#111111") > 3 # a lit box, in light and dark

def test_a_clip_moves_without_loss_and_its_last_frame_rests():
    import base64, io
    import numpy as np
    from PIL import Image, ImageSequence
    from videop2r.engine.paint import clip_uri
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    kind, data = clip_uri(frames, fps=4, scale=2).split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    assert kind == "data:image/webp;base64" and len(shown) == 5
    for frame, seen in zip(frames, shown): assert (seen == frame.repeat(2, 0).repeat(2, 1)).all()

def test_what_stands_beside_a_clip_is_escaped():
    from dataclasses import replace
    from videop2r.world import question_of, spoken_html, to_record
    record = replace(to_record(question_of(0, 0, kinds=("where",)), "x", "x.mp4"), problem="<script>a</script>")
    html = spoken_html(record, ["<observation><i>seen</i></observation>", "<b>"], ["<img src=x>"])
    assert not [tag for tag in ("<script", "<i>seen", "<img src=x", "<b>") if tag in html.replace("<b>&lt;", "").replace("True answer: <b>", "")]
    assert html.count("data:image/webp") == 1 and "alt=\"the clip, moving: At first" in html
