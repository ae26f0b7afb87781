"""A small server of vLLM's protocol that answers with a tiny checkpoint: adapters at run time, token ids, exact frames; and its faults, by name."""
import json, threading
from dataclasses import dataclass, field
from pathlib import Path
import torch
from videop2r.engine.checkpoints import check_adapter
from videop2r.model import Policy, load_adapter
import videop2r.sampling # gives a Policy its `sample`
from videop2r.tools.check import _Stock
from videop2r.tokens import encode
from videop2r.video import prepare
from tiny_server import Replying, read_content, served

class Refused(Exception): "A status and its words."

@dataclass
class Tiny:
    "A checkpoint behind the protocol, one question at a time."
    folder: object
    name: str = "base"
    max_rank: int = 16          # of an adapter
    runtime: bool = True        # adapters may be loaded
    drop: int = 0               # tokens of a video that are lost
    deaf: bool = False          # takes a clip for one frame a second, whatever it is told
    stock: bool = False         # stands tokens as transformers' class does
    dies: int = None            # after so many answers
    bodies: list = field(default_factory=list)
    adapters: list = field(default_factory=list)
    log: list = field(default_factory=list) # what was loaded and unloaded

    def __post_init__(self):
        self.policy, self.turn = (_Stock if self.stock else Policy).load(self.folder), threading.Lock()

    def models(self): return dict(object="list", data=[dict(id=self.name, root=str(self.folder), parent=None), *(dict(id=a, parent=self.name) for a in self.adapters)])

    def load_lora_adapter(self, body):
        if not self.runtime: raise Refused(404, "Not Found")
        name, told = body["lora_name"], json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
        if name in self.adapters: raise Refused(400, f"The lora adapter '{name}' has already been loaded.")
        if told["r"] > self.max_rank: raise Refused(400, f"LoRA rank {told['r']} is greater than max_lora_rank {self.max_rank}.")
        self.policy.model = load_adapter(self.policy.model, body["lora_path"], name.replace(".", "_"))
        self.adapters.append(name)
        self.log.append(("load", name))
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload_lora_adapter(self, body):
        if body["lora_name"] not in self.adapters: raise Refused(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        self.adapters.remove(body["lora_name"])
        self.log.append(("unload", body["lora_name"]))
        return "Success"

    def chat(self, body):
        if body["model"] not in (self.name, *self.adapters): raise Refused(404, f"The model `{body['model']}` does not exist.")
        self.bodies.append(body)
        told = None if self.deaf else body.get("media_io_kwargs", {}).get("video")
        text, clip = read_content(body["messages"][-1]["content"], told=told)
        coder = self.policy.coder
        prompt = encode(coder, text, None if clip is None else prepare(clip, coder.family), name="request")
        draw = torch.Generator().manual_seed(body["seed"] or 0)
        with self.policy.using(body["model"] if body["model"] in self.adapters else None):
            how = dict(limit=body["max_tokens"], temperature=body["temperature"], top_p=body["top_p"], generator=draw)
            found = self.policy.sample([prompt], body["n"], **how)
        seen, mark = list(prompt.prompt), coder.tokenizer.convert_tokens_to_ids(coder.family.video_token)
        if self.drop and mark in seen: del seen[seen.index(mark):seen.index(mark) + self.drop]
        choices = [dict(index=i, finish_reason="length" if cut else "stop", token_ids=ids, message=dict(role="assistant", content=words),
                        logprobs=dict(content=[dict(token="", logprob=v) for v in values[:len(ids)].tolist()]))
                   for i, (ids, words, cut, values) in enumerate(zip(found.rows(), found.texts, found.truncated.tolist(), found.logprobs))]
        return dict(id="tiny", object="chat.completion", model=body["model"], prompt_token_ids=seen, choices=choices)

    def answer(self, path, body):
        with self.turn:
            if self.dies is not None and path == "/chat/completions" and len(self.bodies) >= self.dies: raise ConnectionAbortedError
            if body is None: return self.models()
            return self.chat(body) if path == "/chat/completions" else getattr(self, path[1:])(body)

def handler(tiny):
    class Handler(Replying):
        def do_GET(self): self.say(None)
        def do_POST(self): self.say(self.body())
        def say(self, body):
            try: status, found = 200, tiny.answer(self.path.removeprefix("/v1"), body)
            except Refused as e: status, found = e.args[0], dict(error=dict(message=e.args[1], code=e.args[0]))
            except ConnectionAbortedError:
                self.close_connection = True
                return self.connection.close()
            self.reply(found.encode() if isinstance(found, str) else json.dumps(found).encode(), status)
    return Handler

def serve(tiny):
    "The base URL of a server that runs for the block."
    return served(handler(tiny))
