"""Our patches equal those of the families' own video processors, which need torchvision: `make .venv` puts one beside the environment that is used here alone."""
import hashlib, json, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from family_pixels import CASES, CLIP, PIXELS, frames
from videop2r.families import FAMILIES, Family
from videop2r.video import Clip, prepare

TORCHVISION = Path(sys.prefix) / "torchvision"
FAMILY = {"qwen2.5-vl": FAMILIES["qwen2_5_vl"], "qwen3-vl": Family("qwen3-vl", "qwen3_vl", patch=16, mean=(.5,) * 3, std=(.5,) * 3, whole_clip=True)}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    if not TORCHVISION.exists(): pytest.skip(f"torchvision is not in {TORCHVISION.name}/ of the environment: pip install --no-deps --target .venv/torchvision torchvision")
    out = tmp_path_factory.mktemp("family") / "pixels.npz"
    subprocess.run([sys.executable, str(Path(__file__).with_name("family_pixels.py")), str(TORCHVISION), str(out)], check=True, capture_output=True)
    return np.load(out)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_videos_against_the_family(theirs, name, case):
    got = prepare(Clip(frames(*case), 4.), FAMILY[name], **PIXELS)
    want = torch.from_numpy(theirs[f"{name} {case} pixels"])
    assert got.grid == tuple(theirs[f"{name} {case} grid"].tolist()) and got.patches.shape == want.shape
    assert (got.patches - want).abs().max() < 2e-6, list(theirs["versions"])
