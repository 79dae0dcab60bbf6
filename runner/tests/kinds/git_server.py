"""Git over https on loopback, for tests: git_server.py ROOT CERTIFICATE KEY REQUESTS.

Serves the bare repositories under ROOT by git's own http-backend; prints its port. Each request is a line in REQUESTS:
the path and, if there was one, the Authorization header. What lies under /private/ asks for one; /moved/x answers with a
redirect to /x.
"""
import http.server
import os
import ssl
import subprocess
import sys

ROOT, CERTIFICATE, KEY, REQUESTS = sys.argv[1:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def serve(self):
        path, _, query = self.path.partition("?")
        body = self.body()
        authorization = self.headers.get("Authorization")
        with open(REQUESTS, "a") as requests:
            requests.write(f"{path} {authorization or '-'}\n")
        if path.startswith("/moved/"):
            return self.answer(302, [("Location", self.path.removeprefix("/moved"))])
        if path.startswith("/private/") and not authorization:
            return self.answer(401, [("WWW-Authenticate", 'Basic realm="git"')])
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": ROOT,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = [line.decode().split(": ", 1) for line in head.splitlines()]
        status = next((int(value.split()[0]) for name, value in lines if name == "Status"), 200)
        self.answer(status, [(name, value) for name, value in lines if name != "Status"], content)

    do_GET = do_POST = serve


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
