"""Two steps of the bridge's trainer on given responses; run once for each of two processes.
usage: bridge_child.py FOLDER_OF_MODEL TOKEN_WEIGHTS OUT_FOLDER"""
import os, sys
import torch
from test_bridge import BOUNDS, SILENT, TEXTS, make, tokenizer_of, weights_after
from videop2r.tools.trl import PAGRPOTrainer, process_rewards

def main(folder, how, out):
    rank, tokenizer = int(os.environ["RANK"]), tokenizer_of()
    t = make(PAGRPOTrainer, process_rewards(tokenizer, SILENT, BOUNDS), folder, tokenizer, out, dtype=torch.float32, weights=how, per_device_train_batch_size=4)
    t.texts = TEXTS[4 * rank:4 * rank + 4]
    torch.save(weights_after(t), f"{out}/weights.{rank}")

if __name__ == "__main__": main(*sys.argv[1:])
