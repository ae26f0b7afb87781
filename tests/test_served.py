"""What lies beside saved weights for the engines that serve them: the families' own processors, loaded from the folder alone, make our prompts and our pixels."""
import json, shutil
from pathlib import Path
import pytest, torch
from family_pixels import frames
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from videop2r.families import FAMILIES
from videop2r.model import Policy, merge_adapter
import videop2r.sampling # gives a Policy its `sample`
from videop2r.tools.cli import main
from videop2r.tokens import Coder, collate, encode, train_tokenizer
from videop2r.video import Clip, prepare
from test_family_model import trained
from theirs import batches

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
FILES = ("chat_template.jinja", "preprocessor_config.json", "video_preprocessor_config.json")
QUESTION, N = "What moves in the clip?", 6 # frames of a video
SHAPES = dict(fitting=(84, 84), odd=(90, 122), large=(360, 640), small=(20, 44))
ROWS = {**{f"video {k}": [("video", (N, *s), 4.)] for k, s in SHAPES.items()}, **{f"image {k}": [("image", (1, *s), 1.)] for k, s in SHAPES.items()}, "text": [(None, None, None)],
        "mixed": [("video", (N, 90, 122), 3.), (None, None, None), ("image", (1, 84, 130), 1.), ("video", (N, 60, 60), 1.)]}


def made(folder, model_type):
    from transformers import AutoModelForImageTextToText
    coder = Coder(train_tokenizer([QUESTION] * 5 + ["0123456789. seconds"], 300), FAMILIES[model_type])
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(coder.tiny_config(hidden=64, layers=2, vision=64, depth=2)).save_pretrained(folder)
    coder.save(folder, frames=N)
    return folder

@pytest.fixture(scope="module", params=[*FAMILIES, "base", "teacher"])
def folder(request, tmp_path_factory): return made(tmp_path_factory.mktemp(request.param) / "m", request.param) if request.param in FAMILIES else SAMPLES / request.param

def asked(kind):
    "A question as a program of transformers puts it."
    return [dict(role="user", content=[*([dict(type=kind)] if kind else []), dict(type="text", text=QUESTION)])]

@pytest.fixture(scope="module")
def theirs(folder, tmp_path_factory):
    rows = {n: [dict(messages=asked(k), kind=k, frames=s, fps=fps) for k, s, fps in rows] for n, rows in ROWS.items()}
    return batches("saved", folder, rows, tmp_path_factory.mktemp("served"))

def example(coder, kind, shape, fps):
    visual = kind and prepare(Clip(frames(*shape), fps, kind=kind), coder.family)
    return encode(coder, QUESTION, visual)

@pytest.mark.parametrize("name", ROWS)
def test_the_saved_processor_makes_our_prompt_and_our_pixels(folder, theirs, name):
    coder = Coder.load(folder)
    batch, got = collate(coder, [example(coder, *row) for row in ROWS[name]]), lambda key: torch.from_numpy(theirs[f"{name} {key}"])
    assert (batch.ids == got("input_ids"))[batch.mask].all() and (batch.mask == got("attention_mask").bool()).all()
    for kind, key, grid in (("image", "pixel_values", "image_grid_thw"), ("video", "pixel_values_videos", "video_grid_thw")):
        mine = [v for v in batch.visuals if v and v.kind == kind]
        if not mine: continue
        assert [list(v.grid) for v in mine] == got(grid).tolist()
        assert (torch.cat([v.patches for v in mine]) - got(key)).abs().max() < 2e-6


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_saved_template_is_the_familys_markup(tmp_path, model_type):
    made(tmp_path / "m", model_type)
    coder = Coder.load(tmp_path / "m")
    assert coder.tokenizer.chat_template and coder.turn == coder.family.turn
    for content in (QUESTION, asked(None)[0]["content"]):
        ids = coder.tokenizer.apply_chat_template([dict(role="user", content=content)], add_generation_prompt=True)["input_ids"]
        assert ids == encode(coder, QUESTION).prompt
    said = [dict(role="system", content="Be brief."), dict(role="user", content=QUESTION), dict(role="assistant", content="Nothing.")]
    assert coder.tokenizer.apply_chat_template(said, tokenize=False) == f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nNothing.<|im_end|>\n"

def test_a_template_of_its_own_stays(tmp_path):
    made(tmp_path / "m", "qwen2_5_vl")
    (tmp_path / "m" / FILES[0]).write_text(own := "{% for m in messages %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant:")
    Coder.load(tmp_path / "m").save(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == own == (tmp_path / "again" / FILES[0]).read_text()

def test_bounds_of_a_whole_clip_are_for_its_frames(tmp_path):
    for model_type, factor in (("qwen2_5_vl", 1), ("qwen3_vl", 8)):
        coder = Coder(train_tokenizer([QUESTION] * 5, 280), family := FAMILIES[model_type])
        coder.save(tmp_path, frames=8)
        image, video = (json.loads((tmp_path / name).read_text())["size"] for name in FILES[1:])
        assert image == dict(shortest_edge=family.min_pixels, longest_edge=family.max_pixels) and video == {k: factor * v for k, v in image.items()}

@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_merged_checkpoint_has_them_too(tmp_path, model_type):
    base = made(tmp_path / "m", model_type)
    _, adapter = trained(base, Coder.load(base), tmp_path)
    merge_adapter(base, adapter, tmp_path / "whole")
    assert all((tmp_path / "whole" / name).is_file() for name in FILES) and Coder.load(tmp_path / "whole").family == Coder.load(base).family

def test_merge_by_command_reads_the_base_and_says_what_four_bits_mean(tmp_path, capsys):
    base = made(tmp_path / "m", "qwen2_5_vl")
    _, adapter = trained(base, Coder.load(base), tmp_path)
    want = sampled(base, adapter)
    assert main(["merge", str(adapter), "--out", str(tmp_path / "whole")]) == 0
    assert "Where it learned over a base in four bits" in capsys.readouterr().out
    assert sampled(tmp_path / "whole") == want != sampled(base)
    (tmp_path / "settings.json").write_text(json.dumps(dict(settings=dict(nf4=False), changes=[])))
    assert main(["merge", str(adapter), "--out", str(tmp_path / "again"), "--model", str(base)]) == 0 and "four bits" not in capsys.readouterr().out

def sampled(folder, adapter=None):
    policy = Policy.load(folder, adapter=adapter)
    return policy.sample([example(policy.coder, "video", (N, 60, 60), 2.)], limit=12, temperature=0).rows()

def test_merge_refuses_another_base_and_four_bits_by_name(tmp_path, capsys):
    base = made(tmp_path / "m", "qwen2_5_vl")
    _, adapter = trained(base, Coder.load(base), tmp_path)
    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({k: v + 1e-3 for k, v in weights.items()}, other / "model.safetensors", dict(format="pt"))
    def refused(model, *said):
        assert main(["merge", str(adapter), "--out", str(tmp_path / "whole"), "--model", str(model)]) == 1
        heard = capsys.readouterr().err
        assert all(str(word) in heard for word in said) and not (tmp_path / "whole").exists(), heard
    refused(other, adapter, f"was made for {base}, and {other} holds other weights")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(dict(config, quantization_config=dict(load_in_4bit=True))))
    refused(base, "its weights are quantised", "give the checkpoint that they were made from")
    refused(adapter, "is an adapter, made for") # an adapter in the checkpoint's place
    with pytest.raises(ValueError, match="is a whole checkpoint and no adapter"): merge_adapter(base, other, tmp_path / "whole")

def test_an_adapter_in_a_checkpoints_place_is_told_as_what_it_is(tmp_path, capsys):
    base = made(tmp_path / "m", "qwen2_5_vl")
    _, adapter = trained(base, Coder.load(base), tmp_path)
    picture = tmp_path / "a.png"
    Image.fromarray(frames(1, 60, 60)[0]).save(picture)
    asked = ["ask", str(base), str(picture), QUESTION, "--limit", "8"]
    said = []
    for more in ([], ["--adapter", str(adapter)]):
        assert main(asked + more) == 0
        said.append(capsys.readouterr().out)
    assert said[0] != said[1]
    for place, word in ((adapter, f"is an adapter, made for {base}"), (tmp_path / "run", "is a run's folder; its adapter is")):
        if place != adapter: shutil.copytree(adapter, place / "last")
        assert main(["ask", str(place), *asked[2:]]) == 1 and word in capsys.readouterr().err

@pytest.mark.parametrize("name", ["base", "teacher"])
def test_the_embedded_checkpoints_have_what_is_saved_today(tmp_path, name):
    Coder.load(SAMPLES / name).save(tmp_path)
    assert all((tmp_path / f).read_text(encoding="utf-8") == (SAMPLES / name / f).read_text(encoding="utf-8") for f in FILES)
    assert not (json.loads((tmp_path / FILES[2]).read_text())["do_sample_frames"])
