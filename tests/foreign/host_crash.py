"""Whether nats-server keeps what it acknowledged across a crash of its host, on a stream that compacts its blocks all the time.

    sudo python3 tests/foreign/host_crash.py NATS_SERVER [ROUNDS]

It needs Linux, root (loop mounts), mkfs.ext4 and a nats-server of 2.14 or newer, and no Python package. Each round:

1. nats-server gets a file system of its own, in a file that is mounted.
2. A client stores atomic batches on a stream with a limit of messages per subject, as `KV_links` has one, and notes what is acknowledged.
3. The server is stopped with SIGSTOP, and the file is copied. The copy has what a disk has after a crash of the host: everything that was
   written to the disk, and nothing of the page cache. It models no disk with a volatile cache of its own.
4. A server on the copy must have all that was acknowledged.

The rounds run with `sync_interval: always`, as relink's own server does. The last round runs with the default and should lose messages: if
it loses none, the experiment could not have seen a loss. Exit code 1: an acknowledged message was missing with `always`.
"""

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PORT = 14222
SUBJECTS = 3_000
PER_SUBJECT = 2
BATCH = 200
BODY_BYTES = 1_000
SECONDS = 8.0
IMAGE_BYTES = 3 << 30


class Client:
    """The part of the NATS protocol that the experiment needs."""

    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=20)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB in.* 1\r\nPING\r\n')
        while self.file.readline() != b"PONG\r\n":
            pass

    def request(self, subject, body=b""):
        self.socket.sendall(b"PUB %s in.1 %d\r\n%s\r\n" % (subject.encode(), len(body), body))
        return json.loads(self.answer())

    def answer(self):
        while True:
            words = self.file.readline().split()
            if not words:
                raise ConnectionError("the server closed the connection")
            if words[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                body = self.file.read(int(words[-1]) + 2)[:-2]
                # The first message of a batch may be answered with an empty body.
                if body and words[0] == b"MSG":
                    return body

    def batch(self, name, messages):
        """Stores messages as one atomic batch. Returns the sequence of the last one."""
        out = bytearray()
        for number, (subject, body) in enumerate(messages, 1):
            headers = b"NATS/1.0\r\nNats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n" % (name.encode(), number)
            reply = b""
            if number == len(messages):
                headers += b"Nats-Batch-Commit: 1\r\n"
                reply = b"in.1 "
            headers += b"\r\n"
            total = len(headers) + len(body)
            out += b"HPUB %s %s%d %d\r\n%s%s\r\n" % (subject.encode(), reply, len(headers), total, headers, body)
        self.socket.sendall(out)
        answer = json.loads(self.answer())
        if "error" in answer:
            raise RuntimeError(answer)
        return answer["seq"]


def start(binary, store, sync):
    path = os.path.join(tempfile.gettempdir(), f"host_crash_{os.getpid()}.conf")
    with open(path, "w") as conf:
        conf.write(f'listen: "127.0.0.1:{PORT}"\njetstream {{ store_dir: "{store}", {sync} }}\n')
    server = subprocess.Popen([binary, "-c", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            return server, Client()
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("nats-server does not answer")


def blocks(mount):
    """The blocks of the stream by inode: a compaction replaces the file of a block."""
    found = {}
    for directory, _, names in os.walk(mount):
        for name in names:
            if name.endswith(".blk"):
                try:
                    found[os.path.join(directory, name)] = os.stat(os.path.join(directory, name)).st_ino
                except FileNotFoundError:
                    pass
    return found


def load(client, mount, seconds):
    """Stores batches. Returns the last acknowledged number of each subject, the last sequence, and the compactions that were seen."""
    chosen, acknowledged = random.Random(7), {}
    compactions, before, looked_at = 0, blocks(mount), time.monotonic()
    number, sequence, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        batch = []
        for _ in range(BATCH):
            number += 1
            body = b"%020d" % number + os.urandom(BODY_BYTES - 20)
            batch.append((f"s.{chosen.randrange(SUBJECTS)}", body))
        sequence = client.batch(f"b{number}", batch)
        acknowledged.update({subject: int(body[:20]) for subject, body in batch})
        if time.monotonic() > looked_at + 0.1:
            after, looked_at = blocks(mount), time.monotonic()
            compactions += sum(1 for path, inode in after.items() if before.get(path, inode) != inode)
            before = after
    return acknowledged, sequence, compactions


def missing(client, acknowledged, sequence):
    info = client.request("$JS.API.STREAM.INFO.S")
    if "error" in info:
        return "the stream itself", 0
    lost = 0
    for subject, number in acknowledged.items():
        answer = client.request("$JS.API.STREAM.MSG.GET.S", json.dumps({"last_by_subj": subject}).encode())
        if "error" in answer:
            lost += 1
            continue
        if int(base64.b64decode(answer["message"]["data"])[:20]) < number:
            lost += 1
    last = info["state"]["last_seq"]
    return f"{lost} of {len(acknowledged)} subjects; last sequence {last}, acknowledged {sequence}", lost + (last < sequence)


def mounted(image, directory):
    subprocess.run(["mount", "-o", "loop", image, directory], check=True)


def round_of(binary, directory, sync):
    image, copy = os.path.join(directory, "image"), os.path.join(directory, "copy")
    mount = os.path.join(directory, "mount")
    os.makedirs(mount, exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted(image, mount)
    server = None
    try:
        server, client = start(binary, mount, sync)
        config = {"name": "S", "subjects": ["s.>"], "storage": "file", "num_replicas": 1, "allow_atomic": True,
                  "max_msgs_per_subject": PER_SUBJECT}
        created = client.request("$JS.API.STREAM.CREATE.S", json.dumps(config).encode())
        assert "error" not in created, created
        load(client, mount, 1.0)
        # The default loses the stream itself if it is new; that is not what this looks for.
        subprocess.run(["sync"], check=True)
        acknowledged, sequence, compactions = load(client, mount, SECONDS + random.random())
        os.kill(server.pid, signal.SIGSTOP)
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    finally:
        if server:
            server.kill()
            server.wait()
        subprocess.run(["umount", mount], check=True)
    mounted(copy, mount)
    server = None
    try:
        server, client = start(binary, mount, sync)
        what, lost = missing(client, acknowledged, sequence)
    finally:
        if server:
            server.kill()
            server.wait()
        subprocess.run(["umount", mount], check=True)
        os.remove(copy)
        os.remove(image)
    print(f"{sync}: {sequence} acknowledged, {compactions} compactions seen; missing: {what}", flush=True)
    return lost, compactions


def main():
    binary, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.strip(), flush=True)
    directory = tempfile.mkdtemp(prefix="host_crash_")
    try:
        results = [round_of(binary, directory, "sync_interval: always") for _ in range(rounds)]
        control, _ = round_of(binary, directory, "sync_interval: 2m")
    finally:
        shutil.rmtree(directory)
    if not all(compactions for _, compactions in results):
        print("no block was compacted in some round: the experiment shows nothing")
        return 2
    if not control:
        print("the default lost nothing either: the experiment shows nothing")
        return 2
    return 1 if any(lost for lost, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main())
