"Videos come through whole or not at all, and patches equal plain restatements and the family's own processor."
from fractions import Fraction
from types import SimpleNamespace
import av, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize as family_resize
from videop2r.engine import decode
from videop2r.engine.decode import DECODERS, Table, decoders, read_clip, read_image, read_media
from videop2r.engine.paint import png_uri
from videop2r.families import FAMILIES, Family
from videop2r.video import AtRate, Clip, VideoError, contact_sheet, prepare, resize, sample_indices, sampled_fps, smart_resize

settings.register_profile("steady", deadline=None, database=None, derandomize=True)
settings.load_profile("steady")
QWEN = FAMILIES["qwen2_5_vl"]
HERE = decoders()


def film(path, n=33, h=84, w=84, fps=10, times=None, codec="libx264", pix_fmt="yuv420p", movflags="", **options):
    rng = np.random.default_rng(n)
    with av.open(str(path), "w", options=dict(movflags=movflags) if movflags else {}) as out:
        s = out.add_stream(codec, rate=fps, options=options)
        s.height, s.width, s.pix_fmt = h, w, pix_fmt
        if times: s.codec_context.time_base = Fraction(1, 1000)
        for i in range(n):
            a = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
            a[:, :, 0] = i * 255 // max(n - 1, 1)
            f = av.VideoFrame.from_ndarray(a, format="rgb24")
            if times: f.pts, f.time_base = times[i], Fraction(1, 1000)
            out.mux(s.encode(f))
        out.mux(s.encode())
    return path


@given(st.integers(1, 5000), st.integers(1, 200))
def test_indices_stay_in_the_clip_and_in_order(total, n):
    got = sample_indices(total, n)
    assert len(got) == n and got == sorted(got) and got[0] == 0 and got[-1] == (total - 1 if n > 1 else 0)
    gaps = np.diff(got)
    assert n == 1 or gaps.max() - gaps.min() <= 1
    assert n > total or len(set(got)) == n


@pytest.mark.parametrize("case", [dict(), dict(h=90, w=122, fps=25), dict(h=240, w=320, fps=Fraction(30000, 1001)), dict(n=1), dict(n=5),
                                  dict(times=[i * i * 10 for i in range(33)])], ids=str)
def test_readers_agree(tmp_path, case):
    path = film(tmp_path / "a.mp4", **case)
    whole = frames_in_order(path)
    for d in HERE:
        for n in (1, 3, 8, 40):
            clip = read_clip(path, n, decoder=d)
            assert (clip.frames == np.stack([whole[i][1] for i in clip.indices])).all()
            assert clip.timestamps == pytest.approx([whole[i][0] for i in clip.indices], abs=1e-6)


@pytest.mark.parametrize("decoder", HERE)
@pytest.mark.parametrize("n", [1, 2, 7, 33, 50])
def test_true_rate(tmp_path, decoder, n):
    clip = read_clip(film(tmp_path / "a.mp4"), n, decoder=decoder)
    assert clip.timestamps == pytest.approx([i / 10 for i in clip.indices], abs=1e-5)
    assert clip.fps == pytest.approx((n - 1) / 3.2 if n > 1 else 10)
    assert clip.seconds == pytest.approx(3.2 if n > 1 else 0)


@pytest.mark.parametrize("decoder", HERE)
@pytest.mark.parametrize("damage", ["gone", "folder", "empty", "half", "text", "cut_after_index", "sound"])
def test_damaged_files_are_named(tmp_path, decoder, damage):
    path = tmp_path / f"{damage}.mp4"
    whole = film(tmp_path / "whole.mp4", 120, movflags="faststart").read_bytes()
    if damage == "folder": path.mkdir()
    if damage == "empty": path.touch()
    if damage == "half": path.write_bytes(film(tmp_path / "late.mp4").read_bytes()[:5000])
    if damage == "text": path.write_text("no video\n" * 99)
    if damage == "cut_after_index": path.write_bytes(whole[:len(whole) // 2])
    if damage == "sound": sound(path)
    with pytest.raises(VideoError) as e: read_clip(path, 8, decoder=decoder)
    text = str(e.value)
    assert str(path) in text and any(r in text for r in ("fetch", "check the path")) and "\n" not in text


def sound(path):
    with av.open(str(path), "w") as out:
        s = out.add_stream("aac", rate=16000)
        f = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        f.rate, f.pts = 16000, 0
        out.mux(s.encode(f))
        out.mux(s.encode())


def test_images(tmp_path):
    a = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(a).save(tmp_path / "a.png")
    assert (read_media(tmp_path / "a.png", "image").frames == a[None]).all()
    turned = Image.fromarray(a)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=exif)
    assert read_image(tmp_path / "b.png").frames.shape == (1, 40, 30, 3)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
    for bad in ("c.png", "gone.png"):
        with pytest.raises(VideoError, match=bad): read_image(tmp_path / bad)
    with pytest.raises(VideoError, match="data_type"): read_media(tmp_path / "a.png", "sound")
    with pytest.raises(VideoError, match="n_frames"): read_clip(tmp_path / "a.png", 0)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([28, 32]), st.sampled_from([(3136, 100352), (100352, 602112), (1, 1 << 24)]))
def test_sizes_are_the_familys(h, w, factor, bounds):
    if max(h, w) > 200 * min(h, w):
        with pytest.raises(VideoError): smart_resize(h, w, factor, *bounds)
    else: assert smart_resize(h, w, factor, *bounds) == tuple(family_resize(h, w, factor, *bounds))


@given(st.integers(1, 5), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_patches_against_slices(f, h, w, patch, merge, temporal):
    side = patch * merge
    x = torch.rand(f, 3, h * side, w * side)
    rows, grid = Family(patch=patch, merge=merge, temporal=temporal).patchify(x)
    want = []
    for t in range(0, f, temporal):
        layer = torch.stack([x[min(i, f - 1)] for i in range(t, t + temporal)], 1)
        for i in range(h):
            for j in range(w):
                for a in range(merge):
                    for b in range(merge):
                        y, z = i * side + a * patch, j * side + b * patch
                        want.append(layer[:, :, y:y + patch, z:z + patch].flatten())
    assert torch.equal(rows, torch.stack(want)) and grid == (-(-f // temporal), h * merge, w * merge)


THREE = Family("qwen3-vl", "qwen3_vl", patch=16, mean=(.5,) * 3, std=(.5,) * 3, whole_clip=True, max_pixels=128 * 32 * 32)

@pytest.mark.parametrize("family", [QWEN, THREE], ids=lambda f: f.name) # Qwen3-VL's images go through the same processor with its own numbers
@pytest.mark.parametrize("h,w", [(84, 84), (56, 224), (64, 96), (90, 122), (480, 640), (40, 30)])
def test_images_against_the_family(family, h, w):
    a = np.random.default_rng(h).integers(0, 256, (h, w, 3), dtype=np.uint8)
    size = dict(shortest_edge=family.min_pixels, longest_edge=family.max_pixels)
    out = Qwen2VLImageProcessorPil(size=size, patch_size=family.patch, image_mean=family.mean, image_std=family.std)(images=[Image.fromarray(a)], return_tensors="pt")
    got = prepare(Clip(a[None], 1., kind="image"), family)
    same = (h, w) == tuple(s * family.patch for s in got.grid[1:]) # nothing to resize
    assert got.grid == tuple(out["image_grid_thw"][0].tolist()) and got.patches.dtype == torch.float32
    assert (got.patches - out["pixel_values"]).abs().max() <= (0 if same else 2) / 255 / min(family.std) + 1e-6 # Pillow rounds between its two passes


def test_prepare_leaves_the_clip_alone_and_names_it():
    a = np.full((3, 84, 84, 3), 7, np.uint8)
    a.flags.writeable = False
    clip = Clip(a, 4.)
    seen = prepare(clip, QWEN)
    assert seen.grid == (2, 6, 6) and seen.seconds_per_grid == .5 and (clip.frames == 7).all()
    with pytest.raises(VideoError, match="long.mp4"): prepare(Clip(np.zeros((1, 1, 300, 3), np.uint8), 1., path="long.mp4"), QWEN)


def test_resize_keeps_constant_frames_and_range():
    assert (resize(np.full((2, 50, 70, 3), 200, np.uint8), 84, 112) == 200).all()
    a = resize(np.random.default_rng(0).integers(0, 2, (1, 50, 70, 3), dtype=np.uint8) * 255, 84, 112)
    assert a.min() >= 0 and a.max() <= 255 and torch.equal(a, a.round())


def test_clip_from_an_array():
    assert Clip(np.zeros((3, 4, 4, 3), np.uint8), 2.).timestamps == [0., .5, 1.]
    for bad in (np.zeros((3, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(VideoError, match="uint8"): Clip(bad, 2.)
    with pytest.raises(VideoError, match="fps"): Clip(np.zeros((3, 4, 4, 3), np.uint8), 0.)
    assert sampled_fps([0., 0.], 24) == 24.


def test_sheets():
    clip = Clip(np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8), 2., path="<b>.mp4")
    assert contact_sheet(clip, columns=3, scale=2).size == (3 * 62, 2 * 42)
    assert contact_sheet(clip).size == (5 * 32, 22)
    assert contact_sheet(clip, scale=.5, timestamps=True).size == (5 * 17, 24)
    html = clip._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html and png_uri(contact_sheet(clip, timestamps=True)) in html
    with pytest.raises(ValueError, match="columns"): contact_sheet(clip, columns=0)


def frames_in_order(path):
    "Time and picture of every frame, decoded from the start to the end."
    with av.open(str(path)) as box: return [(f.time, f.to_ndarray(format="rgb24")) for f in box.decode(video=0)]


CODECS = [dict(codec="libx265"), dict(codec="libx265", pix_fmt="yuv420p10le"), dict(codec="libvpx-vp9", ext="webm"), dict(codec="libsvtav1"), dict(codec="libsvtav1", pix_fmt="yuv420p10le"),
          dict(codec="mpeg4", ext="avi"), dict(codec="libx264", ext="mkv"), dict(codec="libx264", ext="ts"), dict(codec="libx264", bf="3", g="12"), dict(codec="libx264", g="5", h=86, w=54), dict(codec="libx264", ext="avi")]

@pytest.mark.parametrize("case", CODECS, ids=str)
def test_codecs_and_containers_are_right_or_refused(tmp_path, case):
    ext, case = case.get("ext", "mp4"), {k: v for k, v in case.items() if k != "ext"}
    path = film(tmp_path / f"a.{ext}", **{**dict(h=90, w=122), **case})
    whole, right = frames_in_order(path), 0
    for d in HERE:
        try: clip = read_clip(path, 7, decoder=d)
        except VideoError as e: assert d != "pyav" and "cannot be read" in str(e)
        else:
            right += 1
            assert (clip.frames == np.stack([whole[i][1] for i in clip.indices])).all() or d == "decord" and "10le" in str(case)
    assert right


def turn(path, degrees):
    "Ask players to turn an .mp4, in its track header's matrix."
    data, (a, b) = bytearray(path.read_bytes()), {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = data.index(b"tkhd") + 44
    data[at:at + 36] = b"".join(int(v).to_bytes(4, "big", signed=True) for v in (a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30))
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_clips_filmed_upright_are_turned(tmp_path, degrees):
    path = film(tmp_path / "a.mp4", h=60, w=100)
    flat = np.stack([a for _, a in frames_in_order(path)])
    turn(path, degrees)
    want = np.rot90(flat, -degrees // 90, axes=(1, 2)) # the matrix turns clockwise
    for d in HERE: assert (read_clip(path, 33, decoder=d).frames == want).all(), d


def test_sampling_by_time(tmp_path):
    path = film(tmp_path / "a.mp4", times=[100 * i if i < 20 else 2000 + 500 * (i - 20) for i in range(33)])
    clip = read_clip(path, 64, AtRate(2.))
    assert clip.timestamps == pytest.approx([0, .5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8], abs=1e-3) and clip.fps == pytest.approx(2.)
    assert len(read_clip(path, 6, AtRate(2.)).indices) == 6 and len(read_clip(path, 64, AtRate(.01, least=3)).indices) == 3
    assert read_clip(film(tmp_path / "b.mp4", n=1), 8, AtRate(2.)).indices == [0] * 4


def test_late_starts_and_covers(tmp_path):
    late = read_clip(film(tmp_path / "late.mkv", times=[5000 + 100 * i for i in range(33)]), 5)
    assert late.timestamps[0] == pytest.approx(5., abs=.01) and late.seconds == pytest.approx(3.2, abs=.01)
    sound(tmp_path / "s.mp4")
    with pytest.raises(VideoError, match="no video stream"): Table.read(tmp_path / "s.mp4")


@given(st.lists(st.floats(.01, 2), min_size=1, max_size=60), st.integers(1, 40), st.floats(.1, 10))
def test_a_rate_takes_the_frame_that_is_shown(gaps, n, fps):
    times = np.cumsum(gaps).tolist()
    got = AtRate(fps)(SimpleNamespace(timestamps=times), n)
    assert len(got) <= max(n, 1) and got == sorted(got) and got[0] == 0 and 0 <= got[-1] < len(times)
    span = times[-1] - times[0]
    step = 1 / fps if 4 <= int(span * fps + 1e-6) + 1 <= n else span / max(len(got) - 1, 1)
    for i, moment in zip(got, (times[0] + k * step for k in range(len(got)))): assert times[i] <= moment + 1e-5 and (i + 1 == len(times) or times[i + 1] > moment - 1e-5)


def test_decoders_are_chosen_in_one_place(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="'vlc' is not here: use one of pyav"): read_clip(path, 4, decoder="vlc")
    monkeypatch.setitem(DECODERS, "far", ("no_such_module", None))
    with pytest.raises(VideoError, match="'far' is not here"): read_clip(path, 4, decoder="far")
    monkeypatch.setattr(decode, "DECODER", "none")
    with pytest.raises(VideoError, match="'none'"): read_clip(path, 4)
