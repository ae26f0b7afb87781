"""A loopback server that speaks OpenAI's chat protocol and answers with a tiny checkpoint; frames come as images, clips as files."""
import base64, io, json, tempfile, threading, time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np
from PIL import Image
from videop2r.model import Policy
import videop2r.sampling # gives a Policy its `sample`
from videop2r.tokens import encode
from videop2r.engine.decode import read_clip
from videop2r.video import Clip, prepare, sample_indices, sampled_fps
from videop2r.engine.scenes import FPS, Scene

def from_uri(url): return base64.b64decode(url.split(",", 1)[1])

def pictures_of(url): return [np.asarray(Image.open(io.BytesIO(base64.b64decode(part))).convert("RGB")) for part in url.split(",", 1)[1].split(",")]

def exact(url, told):
    "The frames of a request, at the rate that it tells; as a vLLM, one a second where it tells none."
    frames, rate = np.stack(pictures_of(url)), (told or {}).get("fps", 1.)
    return Clip(frames, rate, timestamps=[i / rate for i in (told or {}).get("frames_indices", range(len(frames)))])

def as_clip(frames):
    "Pictures as a clip of the synthetic world, whose rate is known; one alone as an image."
    if len(frames) == 1: return Clip(frames[0][None], 1., [0], [0.], "request", "image")
    times = [i / FPS for i in sample_indices(Scene(()).frames, len(frames))]
    return Clip(np.stack(frames), sampled_fps(times, FPS), list(range(len(frames))), times, "request")

def read_content(content, n_frames=8, told=None):
    "(text, clip or None) of one turn's content; `told` of its video."
    if isinstance(content, str): return content, None
    text = "\n".join(p["text"] for p in content if p["type"] == "text")
    frames = [np.asarray(Image.open(io.BytesIO(from_uri(p["image_url"]["url"]))).convert("RGB")) for p in content if p["type"] == "image_url"]
    films = [p["video_url"]["url"] for p in content if p["type"] == "video_url" and p["video_url"]["url"].startswith("data:video/jpeg")]
    if films: return text, exact(films[0], told)
    files = [from_uri(p["video_url"]["url"]) for p in content if p["type"] == "video_url"]
    if not files: return text, as_clip(frames) if frames else None
    with tempfile.NamedTemporaryFile(suffix=".mp4") as f:
        f.write(files[0])
        f.flush()
        return text, read_clip(f.name, n_frames)

class Tiny:
    "The checkpoint, one request at a time."
    def __init__(self, folder): self.policy, self.turn = Policy.load(folder), threading.Lock()

    def __call__(self, body):
        text, clip = read_content(body["messages"][-1]["content"], told=body.get("media_io_kwargs", {}).get("video"))
        prompt = encode(self.policy.coder, text, None if clip is None else prepare(clip, self.policy.coder.family), name="request")
        with self.turn: found = self.policy.sample([prompt], limit=body.get("max_tokens") or 64, temperature=body.get("temperature", 0.))
        return found.texts[0], bool(found.truncated[0]), len(prompt.prompt), len(found.rows()[0])

def completion(body, text, cut, n_in, n_out):
    "A reply in the protocol's form."
    return dict(id="tiny", object="chat.completion", created=int(time.time()), model=body["model"],
                choices=[dict(index=0, message=dict(role="assistant", content=text), finish_reason="length" if cut else "stop")],
                usage=dict(prompt_tokens=n_in, completion_tokens=n_out, total_tokens=n_in + n_out))

class Replying(BaseHTTPRequestHandler):
    "Kept connections; head and body in one packet."
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, 1 << 16

    def log_message(self, *args): pass

    def body(self): return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, data: bytes, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

def handler(answer):
    class Handler(Replying):
        def do_POST(self):
            body = self.body()
            self.reply(json.dumps(completion(body, *answer(body))).encode())
    return Handler

class Loopback(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256

@contextmanager
def served(handler):
    "The base URL of a server with this class of handlers, which runs for the block."
    server = Loopback(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()

def serve(
    answer, # body -> (text, cut off, tokens in, tokens out), such as a `Tiny`
):
    "The base URL of a server that runs for the block."
    return served(handler(answer))
