"""A server on this machine that speaks OpenAI's and Anthropic's protocols and misbehaves on demand."""
import json, threading, time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def reply(path, text, stop=None, tokens=(7, 3)):
    "A body in the protocol of a path."
    if path.split("?")[0].endswith("messages"):
        return dict(id="m", type="message", role="assistant", model="m", content=[dict(type="text", text=text)], stop_reason=stop or "end_turn", stop_sequence=None,
                    usage=dict(input_tokens=tokens[0], output_tokens=tokens[1]))
    return dict(id="c", object="chat.completion", created=0, model="m", choices=[dict(index=0, finish_reason=stop or "stop", message=dict(role="assistant", content=text))],
                usage=dict(prompt_tokens=tokens[0], completion_tokens=tokens[1], total_tokens=sum(tokens)))

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with s.lock:
            s.seen.append(dict(time=time.monotonic(), path=self.path, headers=dict(self.headers), body=body))
            fault = s.faults.pop(0) if s.faults else None
        FAULTS.get(fault, fault if callable(fault) else Handler.good)(self, body)

    def send(self, status, data, headers=()):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for k, v in {"Content-Type": "application/json", "Content-Length": str(len(data)), **dict(headers)}.items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)

    def good(self, body): self.send(200, reply(self.path, self.server.answer(body)))
    def log_message(self, *args): pass

def drop(h, body):
    "Promise a long body, send the beginning, hang up."
    h.send_response(200)
    h.send_header("Content-Type", "application/json")
    h.send_header("Content-Length", "100000")
    h.end_headers()
    h.wfile.write(b'{"id": ')
    h.close_connection = True

def hang(h, body):
    time.sleep(h.server.slow)
    h.close_connection = True

def refuse(h, body):
    key = h.headers.get("Authorization", "") + h.headers.get("x-api-key", "")
    h.send(401, dict(error=dict(message=f"Incorrect API key provided: {key}", type="invalid_request_error")))

FAULTS = {"429": lambda h, b: h.send(429, dict(error=dict(message="slow down")), {"Retry-After": "1"}), "500": lambda h, b: h.send(500, dict(error=dict(message="oops"))),
          "503": lambda h, b: h.send(503, b"<html>busy</html>", {"Content-Type": "text/html"}), "401": refuse, "drop": drop, "hang": hang, "malformed": lambda h, b: h.send(200, b'{"choices": [{'),
          "other": lambda h, b: h.send(200, dict(hello="world")), "null": lambda h, b: h.send(200, b"null"), "empty": lambda h, b: h.send(200, reply(h.path, "")),
          "cut": lambda h, b: h.send(200, reply(h.path, "The square", "max_tokens" if h.path.endswith("messages") else "length")), "bytes": lambda h, b: h.send(200, bytes(range(256)))}

@contextmanager
def serve(answer=lambda body: "fine", faults=(), slow=3.):
    "A running server; `.seen` holds what came, `.url` is its address."
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.answer, s.faults, s.slow, s.seen, s.lock, s.daemon_threads = answer, list(faults), slow, [], threading.Lock(), True
    s.url = f"http://127.0.0.1:{s.server_port}"
    threading.Thread(target=s.serve_forever, args=(.05,), daemon=True).start()
    try: yield s
    finally:
        s.shutdown()
        s.server_close()
