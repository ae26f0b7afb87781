"Checkpoints, adapters and state as people bring them: of other tools, from the hub's cache, damaged, hostile; and special tokens in data."
import json, os, shutil, struct
from pathlib import Path
import pytest, torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from videop2r.data import RecordError, resolve
from videop2r.model import Policy, load, load_adapter
from videop2r.tokens import Coder, encode
from videop2r.tools.cli import main

SAMPLES = Path(__file__).resolve().parent.parent / "data_samples"
ROWS = [json.loads(line) for line in (SAMPLES / "train.jsonl").read_text().splitlines()[:4]]
TRACE = "<observation>The red square moves.</observation> <think>It moves.</think><answer>A</answer>"
EVERY = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv|proj)"

def adapter(folder, **how):
    torch.manual_seed(0)
    model = get_peft_model(load(SAMPLES / "base"), LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"]} | how))
    for name, weight in model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(weight, std=.02)
    model.save_pretrained(folder)
    return folder

def change(folder, told=None, key=None):
    "Change an adapter's config, or the names of its weights."
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if told: config.write_text(json.dumps(json.loads(config.read_text()) | told))
    if key: save_file({key(name): weight for name, weight in load_file(weights).items()}, weights, metadata=dict(format="pt"))
    return folder

def filled(folder):
    model = load_adapter(load(SAMPLES / "base"), folder, "policy")
    return [bool(weight.abs().sum() > 0) for name, weight in model.named_parameters() if "lora_B" in name]

@pytest.mark.parametrize("how", [
    dict(target_modules=EVERY, exclude_modules=r".*visual.*"), dict(target_modules=EVERY, exclude_modules=["k_proj", "qkv", "proj"]), dict(target_modules="all-linear"),
    dict(target_modules=r".*language_model.*q_proj", layers_to_transform=None, rank_pattern={"0.self_attn.q_proj": 2}, alpha_pattern={"q_proj": 3}), dict(use_rslora=True, use_dora=True)], ids=str)
def test_an_honest_adapter_of_another_tool_loads_whole(tmp_path, how):
    found = filled(adapter(tmp_path / "a", **how))
    assert found and all(found)

@pytest.mark.parametrize("old", [lambda name: name.replace("model.language_model.layers", "model.layers"), lambda name: name.replace("model.visual.", "visual.").replace("model.language_model.layers", "model.layers")])
def test_names_from_before_load_whole(tmp_path, old):
    found = filled(change(adapter(tmp_path / "a", target_modules=["q_proj", "qkv"]), key=old))
    assert found and all(found)

def test_the_same_base_in_another_folder_is_no_other_base(tmp_path):
    shutil.copytree(SAMPLES / "base", tmp_path / "base")
    change(folder := adapter(tmp_path / "a"), told=dict(base_model_name_or_path=str(tmp_path / "base")))
    assert all(filled(folder))

@pytest.mark.parametrize("told, key, why", [
    (None, lambda name: name.replace(".lora_A.weight", ".lora_A.default.weight"), "save it again with a current PEFT"), (None, lambda name: name.replace("q_proj", "w_proj"), "has weights for .*w_proj, which the base has not"),
    (dict(target_modules=r".*\.(q|k)_proj", exclude_modules=None), None, "no weights for"), (None, lambda name: name.replace("lora_", "other_"), "no LoRA weights at all")])
def test_what_does_not_fit_is_refused_as_what_it_is(tmp_path, told, key, why):
    with pytest.raises(ValueError, match=why) as e: filled(change(adapter(tmp_path / "a"), told, key))
    assert "was made for" not in str(e.value) and str(tmp_path / "a") in str(e.value)

def test_links_of_a_hub_snapshot_stay_inside_and_others_lead_out(tmp_path):
    home = tmp_path / "hub/datasets--a--b"
    (home / "blobs").mkdir(parents=True)
    (snapshot := home / "snapshots/0123/clips").mkdir(parents=True)
    (home / "blobs/ff").write_bytes(b"x")
    (snapshot / "a.mp4").symlink_to("../../../blobs/ff")
    assert resolve("clips/a.mp4", home / "snapshots/0123").is_file() and resolve("a.mp4", snapshot).is_file()
    (tmp_path / "secret").write_bytes(b"x")
    (snapshot / "b.mp4").symlink_to(tmp_path / "secret")
    (home / "blobs/ee").symlink_to(tmp_path / "secret")
    (snapshot / "c.mp4").symlink_to("../../../blobs/ee")
    for name in ("b.mp4", "c.mp4"):
        with pytest.raises(RecordError, match="a link that leads out"): resolve(name, snapshot)
    own = tmp_path / "photos/snapshots/0123" # somebody's own folder of that name
    own.mkdir(parents=True)
    (tmp_path / "photos/blobs").mkdir()
    (tmp_path / "photos/blobs/ff").write_bytes(b"x")
    (own / "a.mp4").symlink_to("../../blobs/ff")
    with pytest.raises(RecordError, match="a link that leads out"): resolve("a.mp4", own)
    shutil.copytree(SAMPLES / "base", home / "blobs/base")
    (model := home / "snapshots/0123/model").mkdir()
    for path in (home / "blobs/base").iterdir(): (model / path.name).symlink_to(path)
    assert Policy.load(model).family.name == "qwen2.5-vl"

# ---- special tokens of a checkpoint in data

@pytest.fixture(scope="module")
def richer(tmp_path_factory):
    "The base with a further special token, as the family's own checkpoints have them."
    base = tmp_path_factory.mktemp("richer") / "base"
    shutil.copytree(SAMPLES / "base", base)
    held = list(json.loads((base / "tokenizer_config.json").read_text())["extra_special_tokens"])
    AutoTokenizer.from_pretrained(base, extra_special_tokens=[*held, "<|box_start|>"]).save_pretrained(base)
    return base

@pytest.mark.parametrize("token", ["<|box_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_every_special_token_is_named(richer, token):
    coder = Coder.load(richer)
    for text, response in ((f"What is {token}?", None), ("What?", f"It is {token}.")):
        with pytest.raises(ValueError, match="record 'r7': its text holds the markup token"): encode(coder, text, None, response, "r7")
    assert encode(coder, "a <b> | <|other|>", None, "<tool_call>").response

@pytest.mark.parametrize("field", ["output", "problem"])
@pytest.mark.parametrize("command", ["sft", "rl", "generate"])
def test_a_record_with_one_is_left_out_by_name(richer, tmp_path, capsys, command, field):
    rows = [dict(row, output=TRACE, problem=row["problem"]) for row in ROWS]
    rows[1][field] = rows[1][field].replace("It moves.", "It moves <|box_start|>.") if field == "output" else "What is <|box_start|>?"
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = dict(sft=["--model", richer, "--preset", "tiny", "--steps", 1, "--batch", 4], rl=["--model", richer, "--preset", "tiny", "--steps", 1, "--prompts", 4, "--g", 2, "--limit", 6, "--judge", "oracle"],
               generate=["--teacher", f"local:{richer}", "--judge", "oracle", "--limit", 6])[command]
    words = [command, "--records", tmp_path / "r.jsonl", "--media", SAMPLES, "--prompt", "short", "--frames", 2, "--out", tmp_path / "run", *own]
    assert main(list(map(str, words))) == 0, capsys.readouterr().err
    listed = tmp_path / "run/quarantine.jsonl"
    named = listed.read_text() if listed.exists() else ""
    if field == "output" and command != "sft": assert named == "" # a trace that is not read
    else: assert ROWS[1]["problem_id"] in named and "<|box_start|>" in named

# ---- damaged and hostile checkpoints

def damaged(folder, how):
    shutil.copytree(SAMPLES / "base", folder)
    config, weights, tokenizer = folder / "config.json", folder / "model.safetensors", folder / "tokenizer.json"
    if how == "cut weights": weights.write_bytes(weights.read_bytes()[:-1000])
    if how == "empty weights": weights.write_bytes(b"")
    if how == "weights of nothing": weights.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    if how == "a weight is missing": save_file(dict(list(load_file(weights).items())[3:]), weights, metadata=dict(format="pt"))
    if how == "a weight of another shape": save_file({name: weight[..., :1].clone() if "q_proj.weight" in name else weight for name, weight in load_file(weights).items()}, weights, metadata=dict(format="pt"))
    if how == "an index that leads out": (folder / "model.safetensors.index.json").write_text(json.dumps(dict(weight_map={"a": "../../etc/passwd"})))
    if how == "an index of a part that is not there": (folder / "model.safetensors.index.json").write_text(json.dumps(dict(weight_map={"a": "model-00002-of-00002.safetensors"})))
    if how == "an index that is a list": (folder / "model.safetensors.index.json").write_text("[]")
    if how in ("[1]", "null", "7", "{", '"x"'): config.write_text(how)
    if how == "config of another code page": config.write_bytes(b'{"model_type": "\xff"}')
    if how == "huge numbers":
        told = json.loads(config.read_text())
        told["text_config"]["hidden_size"] = 10 ** 12
        config.write_text(json.dumps(told))
    if how == "cut tokenizer": tokenizer.write_text(tokenizer.read_text()[:500])
    if how == "tokenizer is a list": tokenizer.write_text("[]")
    if how == "template without end": (folder / "chat_template.jinja").write_text("{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}")
    if how == "template that fails": (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    if how == "template that is no template": (folder / "chat_template.jinja").write_text("{% if %}")
    return folder

@pytest.mark.parametrize("how", ["cut weights", "empty weights", "weights of nothing", "a weight is missing", "a weight of another shape", "an index that leads out", "an index of a part that is not there",
                                 "an index that is a list", "[1]", "null", "7", "{", '"x"', "config of another code page", "huge numbers", "cut tokenizer", "tokenizer is a list", "template that fails", "template that is no template"])
def test_a_damaged_checkpoint_is_one_line_that_names_it(tmp_path, capsys, how):
    folder = damaged(tmp_path / "base", how)
    assert main(["ask", str(folder), str(SAMPLES / ROWS[0]["path"]), "What moves?"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videop2r ask")]
    assert len(said) == 1 and ("base" in said[0] or "chat template" in said[0]) and "trust_remote_code" not in said[0]

def test_a_template_without_end_is_given_up(tmp_path, monkeypatch):
    from videop2r import tokens
    monkeypatch.setattr(tokens._in_time, "__defaults__", (.2,))
    with pytest.raises(ValueError, match="wrote nothing within"): tokens._in_time(lambda: __import__("time").sleep(1))

# ---- damaged state

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("state")
    (out / "r.jsonl").write_text("".join(json.dumps(dict(row, output=TRACE)) + "\n" for row in ROWS))
    words = ["sft", "--records", out / "r.jsonl", "--media", SAMPLES, "--model", SAMPLES / "base", "--preset", "tiny", "--prompt", "short", "--steps", 1, "--batch", 2, "--frames", 2]
    words = list(map(str, words))
    assert main([*words, "--out", str(out / "run")]) == 0
    return words, out / "run"

def test_a_damaged_table_of_metrics_is_made_again_of_the_checkpoint(run, tmp_path):
    words, whole = run
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_bytes(b"{\n{}\n")
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()

@pytest.mark.parametrize("name, data, why", [
    ("checkpoint.pt", b"", "is empty, cut"), ("checkpoint.pt", b"\0" * 999, "is empty, cut"), ("checkpoint.pt", None, "no checkpoint of a run"), ("settings.json", b"", "is not JSON"), ("settings.json", b"[]", "holds no settings"),
    ("settings.json", b"{}", "holds no settings")])
def test_damaged_state_is_named_with_a_remedy(run, tmp_path, capsys, name, data, why):
    words, whole = run
    shutil.copytree(whole, tmp_path / "run")
    if data is None: torch.save(dict(model={}), tmp_path / "run" / name)
    else: (tmp_path / "run" / name).write_bytes(data)
    code, said = main([*words, "--out", str(tmp_path / "run")]), capsys.readouterr().err
    assert code == 1 and name in said and why in said and "weights_only" not in said and any(word in said for word in ("restore", "remove"))
