"Media as people bring them: odd clocks, odd colours, odd names, odd places, too many pixels, damaged caches, failing machines."
import errno, io, json, os, random, struct, subprocess, sys, zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
import av, numpy as np, pytest
from PIL import Image, ImageCms, ImageDraw
from videop2r.data import Record
from videop2r.engine import decode, images, media
from videop2r.engine.audit import audit
from videop2r.engine.decode import Table, decoders, mended, open_film, read_clip, read_media
from videop2r.engine.images import read_image
from videop2r.engine.media import Reader
from videop2r.engine.reading import to_prompts
from videop2r.families import FAMILIES
from videop2r.tools.cli import main
from videop2r.video import VideoError

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
FAMILY = FAMILIES["qwen2_5_vl"]
av.logging.set_level(av.logging.PANIC)

def film(path, n=40, size=(160, 48), codec="libx264", pix_fmt="yuv420p", form=None, colour=(255, 255, 255), sar=None, times=None, rate=10, **options):
    "A bar that moves from left to right once; two or three pixels a frame."
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream(codec, rate=rate, options={"g": "10", "bf": "0"} | options if codec == "libx264" else options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if times: stream.codec_context.time_base = Fraction(1, 1000)
        if sar: stream.codec_context.sample_aspect_ratio = sar
        for i in range(n):
            array = np.zeros((size[1], size[0], 3), np.uint8)
            array[:, (at := i * (size[0] - 8) // max(n - 1, 1)):at + 8] = colour
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times: frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return Path(path)

def places(clip): return [int(frame.astype(float).sum((0, 2)).argmax()) for frame in clip.frames]

def rising(values): return all(a < b for a, b in zip(values, values[1:]))

# ---- clocks

def test_two_recordings_joined_are_one_after_the_other(tmp_path):
    a = film(tmp_path / "a.ts", form="mpegts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(a + film(tmp_path / "b.ts", 30, form="mpegts").read_bytes())
    clip = read_clip(tmp_path / "joined.ts", 14)
    assert "clock falls back" in clip.note and rising(clip.timestamps) and clip.seconds == pytest.approx(6.9, abs=.15)
    assert rising(places(clip)[:8]) and rising(places(clip)[8:]) and places(clip)[8] < places(clip)[7]

def test_three_joined_whose_clocks_overlap(tmp_path):
    a = film(tmp_path / "a.ts", 20, form="mpegts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(a * 3)
    assert len(open_film(tmp_path / "joined.ts").timestamps) == 60

def test_a_clip_that_starts_between_key_frames_gives_what_can_be_shown(tmp_path):
    whole = film(tmp_path / "whole.ts", 60, form="mpegts", g="30", sc_threshold="0").read_bytes()
    packets = len(whole) // 188
    (tmp_path / "tail.ts").write_bytes(whole[:3 * 188] + whole[188 * (packets // 3):])
    clip = read_clip(tmp_path / "tail.ts", 8)
    assert "begins between two key frames" in clip.note and rising(places(clip)) and places(clip)[0] > 70

def test_raw_frames_without_any_clock(tmp_path):
    clip = read_clip(film(tmp_path / "a.h264", form="h264"), 8)
    assert rising(clip.timestamps) and rising(places(clip)) and "without times" in clip.note

def test_one_damaged_stretch_costs_only_itself(tmp_path):
    whole = bytearray(film(tmp_path / "whole.mkv", 120).read_bytes())
    middle = len(whole) // 2
    whole[middle:middle + len(whole) // 12] = random.Random(0).randbytes(len(whole) // 12)
    (tmp_path / "odd.mkv").write_bytes(whole)
    clip = read_clip(tmp_path / "odd.mkv", 16)
    assert rising(clip.timestamps) and rising(places(clip)) and len(open_film(tmp_path / "odd.mkv").timestamps) > 90

def test_a_size_that_changes_in_mid_stream(tmp_path):
    a = film(tmp_path / "a.ts", 20, form="mpegts").read_bytes()
    (tmp_path / "both.ts").write_bytes(a + film(tmp_path / "b.ts", 20, (96, 96), form="mpegts").read_bytes())
    clip = read_clip(tmp_path / "both.ts", 8)
    assert clip.frames.shape == (8, 48, 160, 3) and (clip.frames[-1][:, :50] == 0).all() # fitted, not stretched

def test_packed_b_frames_in_an_old_container(tmp_path):
    clip = read_clip(film(tmp_path / "a.avi", codec="mpeg4", bf="2"), 8)
    assert rising(clip.timestamps) and rising(places(clip))

def test_a_clock_that_jumps_by_a_day(tmp_path):
    clip = read_clip(film(tmp_path / "a.mkv", 20, times=[i * 100 + (86_400_000 if i >= 10 else 0) for i in range(20)]), 20)
    assert clip.seconds == pytest.approx(1.9, abs=.05) and "jumps" in clip.note

def test_a_late_start_and_a_varying_rate_are_left_as_they_are(tmp_path):
    clip = read_clip(film(tmp_path / "a.mkv", 10, times=[5000 + i * i * 40 for i in range(10)]), 10)
    assert not clip.note and np.diff(clip.timestamps) == pytest.approx([(2 * i + 1) * .04 for i in range(9)], abs=2e-3)

def test_an_index_that_promises_more_is_an_incomplete_download(tmp_path):
    whole = film(tmp_path / "a.mp4", 100, movflags="faststart").read_bytes()
    with av.open(str(tmp_path / "a.mp4"), "r") as box, av.open(str(tmp_path / "b.mp4"), "w", options=dict(movflags="faststart")) as out:
        stream = out.add_stream_from_template(box.streams.video[0])
        for packet in box.demux(video=0):
            if packet.dts is not None: packet.stream = stream; out.mux(packet)
    whole = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:len(whole) * 2 // 3])
    with pytest.raises(VideoError, match="cut short: holds .* of the 100 frames .*fetch"): read_clip(tmp_path / "cut.mp4", 8)

@pytest.mark.parametrize("times, wanted", [
    ([0, 1, 2], [0, 1, 2]), ([None, None], [0, 1]), ([0, 0, 1, 1], [0, 1, 2, 3]), ([3, 4, 0, 1], [3, 4, 5, 6]),
    ([0, 1, 90_000, 90_001], [0, 1, 2, 3]), ([-2, -1, 0], [-2, -1, 0]), ([0, 2, 1.5, 3], [0, 2, 3, 4]), ([], [])])
def test_a_mended_clock_rises(times, wanted): assert mended(times, 1.) == pytest.approx(wanted)

def test_times_before_zero_are_counted_from_the_first(tmp_path):
    table = Table.read(film(tmp_path / "a.mkv", 5))
    assert replace(table, pts=[-200, -100, 0], base=.001).times == pytest.approx([0, .1, .2])

@pytest.mark.parametrize("decoder", decoders())
def test_every_decoder_gives_the_same_of_an_odd_clip(tmp_path, decoder):
    a = film(tmp_path / "a.ts", 20, form="mpegts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(a * 2)
    assert (read_clip(tmp_path / "joined.ts", 8, decoder=decoder).frames == read_clip(tmp_path / "joined.ts", 8, decoder="pyav").frames).all()

# ---- pixels

@pytest.mark.parametrize("decoder", decoders())
@pytest.mark.parametrize("sar, wide", [(Fraction(4, 3), 96), (Fraction(1, 2), 36), (None, 72)])
def test_pixels_that_are_not_square(tmp_path, decoder, sar, wide):
    path = film(tmp_path / "a.mp4", 5, (72, 64), sar=sar)
    assert read_clip(path, 2, decoder=decoder).frames.shape[1:3] == (64, wide)

def drawing(mode, ground, ink, **how):
    picture = Image.new(mode, (64, 64), ground)
    ImageDraw.Draw(picture).rectangle((20, 20, 43, 43), fill=ink)
    out = io.BytesIO()
    picture.save(out, **how)
    return out.getvalue()

@pytest.mark.parametrize("name, data, ground, ink", [
    ("black on clear", lambda: drawing("RGBA", (0, 0, 0, 0), (0, 0, 0, 255), format="PNG"), 255, 0),
    ("white on clear", lambda: drawing("RGBA", (255, 255, 255, 0), (255, 255, 255, 255), format="PNG"), 0, 255),
    ("half clear", lambda: drawing("RGBA", (0, 0, 0, 0), (0, 0, 0, 128), format="WEBP", lossless=True), 255, 127),
    ("grey on clear", lambda: drawing("LA", (0, 0), (90, 255), format="PNG"), 255, 90),
    ("colour key", lambda: drawing("RGB", (1, 2, 3), (200, 200, 200), format="PNG", transparency=(1, 2, 3)), 255, 200),
    ("grey key", lambda: drawing("L", 7, 60, format="PNG", transparency=7), 255, 60),
    ("16 bits", lambda: drawing("I;16", 257 * 40, 257 * 200, format="PNG"), 40, 200),
    ("16 bits in TIFF", lambda: drawing("I;16", 257 * 40, 257 * 200, format="TIFF"), 40, 200),
    ("one bit", lambda: drawing("1", 1, 0, format="PNG"), 255, 0),
    ("inks", lambda: drawing("CMYK", (0, 0, 0, 0), (0, 0, 0, 255), format="TIFF"), 255, 0)])
def test_a_picture_is_seen_as_a_person_sees_it(tmp_path, name, data, ground, ink):
    (tmp_path / "a.png").write_bytes(data())
    frame = read_image(tmp_path / "a.png").frames[0]
    assert abs(int(frame[2, 2].mean()) - ground) <= 2 and abs(int(frame[32, 32].mean()) - ink) <= 2

def test_lab_colours_and_numbers_without_a_white(tmp_path):
    Image.new("LAB", (32, 32), (200, 128, 128)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").frames.std() < 3 and read_image(tmp_path / "a.tif").frames.mean() > 120
    Image.new("F", (32, 32), .5).save(tmp_path / "b.tif")
    with pytest.raises(VideoError, match="no white of their own; save it with 8 bits"): read_image(tmp_path / "b.tif")

def test_a_moving_picture_is_its_first_frame_or_a_clip(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200)
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=200, lossless=True)
    assert read_image(tmp_path / "a.webp").frames[0, 0, 0].tolist() == [255, 0, 0]
    assert np.abs(read_image(tmp_path / "a.gif").frames[0, 0, 0].astype(int) - [255, 0, 0]).max() < 8 # of a palette
    assert len(open_film(tmp_path / "a.gif").timestamps) == 3
    with pytest.raises(VideoError, match="WebP picture, not a video"): read_clip(tmp_path / "a.webp", 2)

def test_clear_frames_of_a_clip_show_the_ground(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("qtrle", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "argb"
        for _ in range(3):
            array = np.zeros((32, 32, 4), np.uint8)
            array[8:24, 8:24] = (255, 200, 0, 0)
            frame = av.VideoFrame(32, 32, "argb")
            frame.planes[0].update(np.ascontiguousarray(np.pad(array, ((0, 0), (0, frame.planes[0].line_size // 4 - 32), (0, 0)))).tobytes())
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    frame = read_clip(tmp_path / "a.mov", 1).frames[0]
    assert frame[2, 2].tolist() == [255, 255, 255] and frame[16, 16].tolist() == [200, 0, 0]

def lines_of(depth, kind, rows, further=b""):
    "A PNG of 16 bits, byte by byte."
    def part(name, data): return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, kind, 0, 0, 0)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + further + part(b"IDAT", zlib.compress(raw)) + part(b"IEND", b"")

def test_a_colour_key_of_16_bits_is_clear(tmp_path):
    rows = np.full((40, 40), 257 * 30)
    rows[10:30, 10:30] = 257 * 120
    key = b"tRNS" + struct.pack(">H", 257 * 30)
    (tmp_path / "a.png").write_bytes(lines_of(16, 0, rows, struct.pack(">I", 2) + key + struct.pack(">I", zlib.crc32(key))))
    frame = read_image(tmp_path / "a.png").frames[0]
    assert frame[2, 2].tolist() == [255] * 3 and frame[20, 20].tolist() == [120] * 3

def test_zeros_that_are_white(tmp_path):
    values = np.full((40, 40), 60_000, np.uint16)
    values[10:30, 10:30] = 5_000
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    frame = read_image(tmp_path / "a.tif").frames[0]
    assert frame[2, 2, 0] == 255 - 233 and frame[20, 20, 0] == 255 - 19

@pytest.mark.parametrize("profile", [b"no profile" * 20, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()], ids=["damaged", "of light"])
def test_inks_whose_profile_is_of_no_use(tmp_path, profile):
    (tmp_path / "a.jpg").write_bytes(drawing("CMYK", (0, 0, 0, 0), (0, 0, 0, 255), format="JPEG", icc_profile=profile))
    frame = read_image(tmp_path / "a.jpg").frames[0]
    assert frame[2, 2].min() > 250 and frame[32, 32].max() < 5

def test_damaged_notes_cost_no_picture(tmp_path):
    (tmp_path / "a.webp").write_bytes(drawing("RGB", (250, 0, 0), (0, 0, 250), format="WEBP", lossless=True, exif=b"no notes at all"))
    assert read_image(tmp_path / "a.webp").frames[0, 2, 2].tolist() == [250, 0, 0]

@pytest.mark.parametrize("head, form", [(b"\0\0\0\x18ftypheic", "HEIC"), (b"8BPS\0\1", "Photoshop"), (b"%PDF-1.7\n", "PDF")])
def test_forms_that_are_not_read_are_named(tmp_path, head, form):
    (tmp_path / "a.jpg").write_bytes(head + bytes(60))
    with pytest.raises(VideoError, match=f"it is {form}; save it as PNG or JPEG"): read_image(tmp_path / "a.jpg")

@pytest.mark.parametrize("form", ["PPM", "QOI"])
def test_stills_of_rarer_forms_are_no_videos(tmp_path, form):
    Image.new("RGB", (40, 40), "green").save(tmp_path / "a.mp4", form)
    with pytest.raises(VideoError, match=f"is a {form} picture, not a video"): read_clip(tmp_path / "a.mp4", 2)

@pytest.mark.parametrize("decoder", decoders())
@pytest.mark.parametrize("name, codec, form", [("a.webm", "libvpx-vp9", "yuva420p"), ("b.webm", "libvpx", "yuva420p"), ("a.mov", "png", "rgba"), ("a.mkv", "ffv1", "yuva420p")])
def test_what_is_clear_in_a_clip_by_every_decoder(tmp_path, decoder, name, codec, form):
    array = np.zeros((64, 64, 4), np.uint8)
    array[16:48, 16:48] = (0, 180, 0, 255)
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream(codec, rate=5, options={"auto-alt-ref": "0"} if codec == "libvpx" else {})
        stream.width, stream.height, stream.pix_fmt = 64, 64, form
        for _ in range(4): out.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgba")))
        out.mux(stream.encode())
    clip = read_clip(tmp_path / name, 2, decoder=decoder)
    for frame in clip.frames: assert frame[4, 4].min() > 250 and 160 < frame[32, 32, 1] < 200 > 20 + frame[32, 32, 0]
    assert decoder == "pyav" or f"for {decoder} it may show the ground" in clip.note

@pytest.mark.parametrize("matrix, corner", [((1, 0, 0, 1), (0, 0)), ((-1, 0, 0, 1), (0, 1)), ((1, 0, 0, -1), (1, 0)), ((-1, 0, 0, -1), (1, 1)),
    ((0, 1, -1, 0), (0, 1)), ((0, -1, 1, 0), (1, 0)), ((0, 1, 1, 0), (0, 0)), ((0, -1, -1, 0), (1, 1))])
def test_a_clip_is_turned_and_mirrored_as_its_camera_noted(tmp_path, matrix, corner):
    array = np.zeros((48, 96, 3), np.uint8)
    array[:24, :48] = 255 # one corner, so that no two ways look the same
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        for _ in range(3): out.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        out.mux(stream.encode())
    def noted(across, down, across_too, down_too):
        return np.array([across << 16, down << 16, 0, across_too << 16, down_too << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    whole = bytearray((tmp_path / "a.mp4").read_bytes())
    at = whole.index(noted(1, 0, 0, 1), whole.index(b"tkhd"))
    whole[at:at + 36] = noted(*matrix)
    (tmp_path / "b.mp4").write_bytes(whole)
    frame = read_clip(tmp_path / "b.mp4", 1, decoder="pyav").frames[0].mean(-1)
    height, width = frame.shape
    assert (width > height) == (not matrix[1])
    light = frame.reshape(2, height // 2, 2, width // 2).mean((1, 3))
    assert np.unravel_index(light.argmax(), (2, 2)) == corner

def test_full_range_stays_full_range(tmp_path):
    path = film(tmp_path / "a.mp4", 3, codec="libx264", pix_fmt="yuvj420p", colour=(255, 255, 255))
    frame = read_clip(path, 1).frames[0]
    assert frame.max() >= 250 and frame.min() <= 4

# ---- places and names

OTHER = {"m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{path}\n#EXT-X-ENDLIST\n", "concat": "ffconcat version 1.0\nfile '{path}'\n",
         "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n", "mpd": "<?xml version='1.0'?><MPD><Period><BaseURL>{path}</BaseURL></Period></MPD>"}

@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("decoder", decoders())
def test_a_file_that_points_at_another_is_no_clip(tmp_path, kind, decoder):
    (tmp_path / "in").mkdir()
    film(tmp_path / "secret.ts", 10, form="mpegts")
    for name in (f"a.{kind}", "a.mp4"):
        (tmp_path / "in" / name).write_text(OTHER[kind].format(path=tmp_path / "secret.ts"))
        with pytest.raises(VideoError, match="cannot be read as a video"): read_clip(tmp_path / "in" / name, 2, decoder=decoder)

@pytest.mark.parametrize("name", ["http:a.mp4", "concat:a.mp4|b.mp4", "clip %03d.mp4", "2024-11-14T22:57:44.mp4", "-i.mp4", "猫 #1?.mp4", "file:a.mp4", "a.txt", "noending", "a.MP4"])
def test_a_name_is_a_name(tmp_path, name, monkeypatch):
    film(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        for decoder in decoders(): assert len(read_clip(path, 2, decoder=decoder).frames) == 2

def test_a_sequence_of_pictures_is_not_followed(tmp_path):
    for i in range(3): Image.new("RGB", (32, 32)).save(tmp_path / f"f{i}.png")
    for name in ("f%d.png", "f*.png"):
        with pytest.raises(VideoError, match="no such file"): read_clip(tmp_path / name, 2)

@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"%PDF-1.4\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xd7\xcd\xc6\x9a" + bytes(40)])
def test_no_picture_that_is_a_program(tmp_path, head):
    for name in ("a.png", "a.eps"):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(VideoError, match="as an image"): read_image(tmp_path / name)

def test_what_is_no_plain_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "d.png").mkdir()
    for path in (tmp_path / "a.mp4", tmp_path / "d.png", "/dev/zero"):
        for kind in ("video", "image"):
            with pytest.raises(VideoError, match="no plain file"): read_media(path, kind)
    with pytest.raises(VideoError, match="no such file"): read_media(tmp_path / ("x" * 300 + ".mp4"), "video")

@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "JPEG2000", "ICO"])
def test_a_still_is_no_video_whatever_it_is_called(tmp_path, form):
    Image.new("RGB", (56, 56), "blue").save(tmp_path / "a.mp4", form)
    with pytest.raises(VideoError, match="picture, not a video; fetch the video, or call it an image"): read_clip(tmp_path / "a.mp4", 4)
    assert read_image(tmp_path / "a.mp4").kind == "image"

def test_a_list_of_files_to_fetch_holds_one_plain_path_a_line(tmp_path, capsys):
    rows = [json.loads(line) for line in (SAMPLES / "train.jsonl").read_text().splitlines()[:6]]
    for row, path in zip(rows, ["/etc/passwd", "../up.mp4", "a.mp4\n/etc/shadow", "a/../../b.mp4"]): row["path"] = path
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "subset", str(tmp_path / "r.jsonl"), "--n", "2", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/media.txt").read_text().splitlines() == sorted(row["path"] for row in rows[4:])
    assert "/etc/passwd" in "".join(capsys.readouterr())

# ---- too many pixels

@pytest.mark.parametrize("size, frames", [((9000, 9000), 1), ((6000, 6000), 24)])
def test_pixels_are_counted_before_they_are_decoded(tmp_path, size, frames, monkeypatch):
    path = film(tmp_path / "a.mp4", 2)
    table = replace(Table.read(path), size=size, pts=list(range(frames)))
    asked = []
    clip = decode.Film(str(path), table, lambda indices: asked.append(indices))
    with pytest.raises(VideoError, match="a.mp4: .*(make it smaller)"): clip.pick(list(range(frames)))
    assert not asked

def test_a_large_picture_is_refused_by_its_head(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    with pytest.raises(VideoError, match="400000000 pixels"): read_image(tmp_path / "a.png")

@pytest.mark.parametrize("error", [KeyError("x"), IndexError("x"), TypeError("x"), EOFError("x"), OverflowError("x"), AssertionError("x")])
def test_whatever_a_picture_reader_raises_is_the_file_s(tmp_path, monkeypatch, error):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "_as_seen", lambda image: (_ for _ in ()).throw(error))
    with pytest.raises(VideoError, match="a.png: cannot be read as an image"): read_image(tmp_path / "a.png")

# ---- caches, and the machine's own faults

def reader(folder, **how): return Reader(SAMPLES, 4, cache=folder, **how)

def sample(i=0): return Record.from_dict([json.loads(line) for line in (SAMPLES / "train.jsonl").read_text().splitlines()][i])

@pytest.mark.parametrize("damage", ["bit in the frames", "bit in the head", "bit in the sum", "cut", "empty", "longer", "another's", "of an older form"])
def test_a_damaged_entry_is_said_and_made_again(tmp_path, damage):
    want = reader(tmp_path / "a").clip(sample(), FAMILY)
    entry = next((tmp_path / "a").rglob("*.frames"))
    data = bytearray(entry.read_bytes())
    if "bit" in damage: data[dict(frames=len(data) // 2, head=30, sum=3)[damage.split()[-1]]] ^= 4
    if damage == "cut": data = data[:-5]
    if damage == "empty": data = b""
    if damage == "longer": data = data + b"x"
    if damage == "of an older form": data = data[9:]
    if damage == "another's": data = data.replace(b'"fps"', b'"fqs"')
    entry.write_bytes(bytes(data))
    again = reader(tmp_path / "a")
    with pytest.warns(UserWarning, match="are read from .* again"): got = again.clip(sample(), FAMILY)
    assert (got.frames == want.frames).all() and got.timestamps == want.timestamps and (again.cache.hits, again.cache.misses) == (0, 1)
    assert reader(tmp_path / "a").clip(sample(), FAMILY).fps == want.fps

def test_a_note_is_kept_with_its_frames(tmp_path):
    a = film(tmp_path / "a.ts", 20, form="mpegts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(a * 2)
    record = replace(sample(), path="joined.ts")
    notes = [Reader(tmp_path, 4, cache=tmp_path / "c").clip(record, FAMILY).note for _ in range(2)]
    assert notes[0] == notes[1] and "clock falls back" in notes[0]

def test_a_cache_that_cannot_be_written_is_read_past(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="nothing can be kept here"): blocked = reader(tmp_path / "file")
    assert blocked.clip(sample(), FAMILY).frames.shape[0] == 4
    full = reader(tmp_path / "full")
    def no_room(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("videop2r.engine.files.os.replace", no_room)
    with pytest.warns(UserWarning, match="nothing can be kept here .*No space") as said:
        for i in range(3): full.clip(sample(i), FAMILY)
    assert len(said) == 1 and not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]

def test_an_entry_that_may_only_be_read_is_a_hit(tmp_path, monkeypatch):
    reader(tmp_path).clip(sample(), FAMILY)
    def denied(*args): raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("videop2r.engine.framecache.os.utime", denied)
    again = reader(tmp_path)
    again.clip(sample(), FAMILY)
    assert again.cache.hits == 1

@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_the_machine_s_fault_is_tried_again_and_is_never_the_file_s(monkeypatch, number):
    calls, real = [], Table.read
    def failing(times):
        def table(path):
            calls.append(path)
            if len(calls) <= times: raise OSError(number, os.strerror(number))
            return real(path)
        return table
    def reads(path): raise OSError(number, os.strerror(number), str(path))
    monkeypatch.setattr(images, "_reads", reads)
    monkeypatch.setattr(Table, "read", failing(1))
    assert Reader(SAMPLES, 4).clip(sample(), FAMILY).frames.shape[0] == 4
    calls.clear()
    monkeypatch.setattr(Table, "read", failing(99))
    with pytest.raises(OSError, match="embedded-train-00000") as e: Reader(SAMPLES, 4).clip(sample(), FAMILY)
    assert not isinstance(e.value, ValueError) and e.value.errno == number

def test_an_input_error_of_a_file_that_can_be_read_is_the_file_s(tmp_path, monkeypatch):
    def broken(path): raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(Table, "read", broken)
    with pytest.raises(VideoError, match="cannot be read as a video"): read_clip(film(tmp_path / "a.mp4", 3), 2)

def test_an_audit_lists_no_medium_for_the_machine_s_fault(tmp_path):
    code = (f"import errno, os\nfrom pathlib import Path\nfrom videop2r.engine.decode import read_media\nFLAG = Path({str(tmp_path / 'flag')!r})\n"
            "def read(path, kind, frames):\n    if FLAG.exists() and path.endswith('00000.mp4'): raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))\n    return read_media(path, kind, frames)\n")
    (tmp_path / "failing_reader.py").write_text(code)
    (tmp_path / "flag").touch()
    run = (f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport json, os\nfrom failing_reader import read\nfrom videop2r.data import Record\nfrom videop2r.engine.audit import audit\n"
           f"if __name__ == '__main__':\n    rows = [Record.from_dict(json.loads(line)) for line in open({str(SAMPLES / 'train.jsonl')!r})][:2]\n"
           f"    read_all = lambda: audit({str(SAMPLES)!r}, rows, {str(tmp_path / 'out')!r}, workers=1, frames=2, read=read, quiet=True)\n"
           f"    try: read_all()\n    except OSError as error: print(error, open({str(tmp_path / 'out/quarantine.jsonl')!r}).read())\n"
           f"    os.remove({str(tmp_path / 'flag')!r})\n    print(read_all().kinds)\n")
    (tmp_path / "run.py").write_text(run)
    env = {**os.environ, "PYTHONPATH": f"{SAMPLES.parent}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, tmp_path / "run.py"], env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    first, again = done.stdout.splitlines()
    assert first.strip().endswith("1 media were not read, clips/embedded-train-00000.mp4 first: Too many open files; run it again")
    assert "'good': 2" in again

# ---- frames that are not there, and clocks that are wrong

def without_packets(source, target, gone):
    with av.open(str(source)) as box, av.open(str(target), "w") as out:
        stream = box.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for n, packet in enumerate(packet for packet in box.demux(stream) if packet.dts is not None):
            if n in gone: continue
            packet.stream = copy
            out.mux(packet)
    return Path(target)

@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.flv", "libx264")])
def test_packets_that_are_missing_on_the_way_are_told(tmp_path, name, codec):
    whole = film(tmp_path / name, codec=codec)
    assert read_clip(whole, 8).note == ""
    clip = read_clip(without_packets(whole, tmp_path / f"d{name}", (17, 18)), 8)
    assert "frames missing on the way: 2" in clip.note and rising(clip.timestamps)

@pytest.mark.parametrize("name, codec", [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.flv", "libx264")])
def test_a_clip_that_ends_before_its_time_says_so(tmp_path, name, codec):
    whole = film(tmp_path / name, codec=codec).read_bytes()
    (tmp_path / f"c{name}").write_bytes(whole[:len(whole) * 6 // 10])
    clip = read_clip(tmp_path / f"c{name}", 8)
    assert "its last frame is at" in clip.note and clip.note.endswith(("not at 3.9 s", "not at 4.0 s")) and clip.timestamps[-1] < 3

@pytest.mark.parametrize("name, codec, size", [("a.mkv", "libx264", 900), ("a.webm", "libvpx", 900), ("a.mpg", "mpeg2video", 2000), ("a.wmv", "wmv2", 2000)])
def test_an_overwritten_part_is_told(tmp_path, name, codec, size):
    whole = bytearray(film(tmp_path / name, codec=codec, rate=25).read_bytes())
    size = min(size, len(whole) // 5)
    middle = len(whole) // 2
    whole[middle:middle + size] = bytes(size)
    (tmp_path / f"z{name}").write_bytes(whole)
    clip = read_clip(tmp_path / f"z{name}", 8)
    assert clip.note and rising(clip.timestamps)

def test_an_uneven_clock_is_no_loss(tmp_path):
    times = [0, 100, 200, 300, 600, 700, 800, 1100, 1500, 1600, 1700, 2500, 2600, 2700, 2800, 9000]
    assert read_clip(film(tmp_path / "a.mkv", len(times), times=times), 8).note == ""

@pytest.mark.parametrize("decoder", decoders())
def test_what_an_edit_list_trims_is_not_shown_and_is_no_loss(tmp_path, decoder):
    data = bytearray(film(tmp_path / "whole.mp4").read_bytes())
    at = data.find(b"elst") + 12
    data[at:at + 8] = struct.pack(">Ii", 1000, round(1.5 / Table.read(tmp_path / "whole.mp4").base)) # one second, from 1.5 s on
    (tmp_path / "trimmed.mp4").write_bytes(data)
    clip, whole = read_clip(tmp_path / "trimmed.mp4", 10, decoder=decoder), read_clip(tmp_path / "whole.mp4", 40)
    assert (clip.frames == whole.frames[15:25]).all() and clip.timestamps == pytest.approx([i / 10 for i in range(10)], abs=1e-3)
    assert clip.note == "" if decoder == "pyav" else "by PyAV" in clip.note

@pytest.mark.parametrize("decoder", decoders())
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_that_goes_on_after_the_picture(tmp_path, name, decoder):
    with av.open(str(tmp_path / name), "w") as out:
        stream, sound = out.add_stream("libx264", rate=10, options={"g": "10", "bf": "0"}), out.add_stream("aac", rate=44100)
        stream.width, stream.height, stream.pix_fmt = 160, 48, "yuv420p"
        for i in range(40):
            array = np.zeros((48, 160, 3), np.uint8)
            array[:, 3 * i:3 * i + 8] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        out.mux(stream.encode())
        for i in range(430):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 44100, 1024 * i
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    clip = read_clip(tmp_path / name, 8, decoder=decoder)
    assert "last frame" not in clip.note and np.array(places(clip)) == pytest.approx([3 * i for i in clip.indices], abs=9)

@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_clock_of_90000_frames_a_second_is_no_clock(tmp_path, name):
    clip = read_clip(film(tmp_path / name, rate=90000), 8)
    assert clip.note and 1 <= clip.fps < 30 and 1 < clip.timestamps[-1] < 2 and rising(places(clip))

def test_a_length_of_nothing_or_of_days_changes_nothing(tmp_path):
    data, want = film(tmp_path / "a.mp4", 20).read_bytes(), read_clip(tmp_path / "a.mp4", 8)
    for length in (0, 10 ** 9):
        at = data.find(b"mdhd") + 20
        (tmp_path / "b.mp4").write_bytes(data[:at] + struct.pack(">I", length) + data[at + 4:])
        got = read_clip(tmp_path / "b.mp4", 8)
        assert (got.frames == want.frames).all() and got.timestamps == want.timestamps

@pytest.mark.parametrize("form", ["yuv444p", "yuv422p", "yuv420p10le"])
def test_pixels_of_another_form_from_the_middle_on(tmp_path, form):
    a = film(tmp_path / "a.ts", 20, form="mpegts").read_bytes()
    (tmp_path / "both.ts").write_bytes(a + film(tmp_path / "b.ts", 20, form="mpegts", pix_fmt=form).read_bytes())
    clip = read_clip(tmp_path / "both.ts", 40)
    assert np.abs(clip.frames[:20].astype(int) - clip.frames[20:]).mean() < 3 and rising(clip.timestamps)

@pytest.mark.skipif("decord" not in decoders(), reason="decord is not here")
def test_a_decoder_that_fails_while_it_reads_is_told(tmp_path, monkeypatch):
    real = decode.decord.VideoReader
    class Failing(real):
        def get_batch(self, indices): raise RuntimeError("cannot seek")
    monkeypatch.setattr(decode.decord, "VideoReader", Failing)
    clip = read_clip(film(tmp_path / "a.mp4"), 8, decoder="decord")
    assert clip.note.count("read by PyAV, since for decord it") == 1 and rising(places(clip))

def test_a_lack_of_memory_by_a_damaged_file_is_the_file_s(tmp_path, monkeypatch):
    def broken(path): raise OSError(errno.ENOMEM, "Cannot allocate memory")
    monkeypatch.setattr(Table, "read", broken)
    with pytest.raises(VideoError, match="cannot be read as a video"): read_clip(film(tmp_path / "a.mp4", 3), 2)

@pytest.mark.parametrize("head, form", [(b"%PDF-1.7\n", "PDF"), (b"%!PS-Adobe-3.0\n", "PostScript"), (b"8BPS\0\1", "Photoshop"), (b"\0\0\0\x18ftypheic", "HEIC")])
def test_a_page_that_is_called_a_clip_is_not_told_to_be_called_a_picture(tmp_path, head, form):
    (tmp_path / "a.mp4").write_bytes(head + bytes(200))
    with pytest.raises(VideoError, match=f"is a {form} picture, not a video; fetch the video$"): read_clip(tmp_path / "a.mp4", 2)
