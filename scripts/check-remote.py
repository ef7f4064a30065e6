"""The part of check-remote that talks: serves the sample shards as S3 and as Google's store, and compares."""

import http.server
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import xml.sax.saxutils

import boto3
from moto.server import ThreadedMotoServer

SHARDS = sorted(pathlib.Path("shards").glob("fashion-*.tar"))
MODIFIED = "Sun, 09 Sep 2001 01:46:40 GMT"


def fail(why):
    sys.exit(f"check-remote: {why}")


class Google(http.server.BaseHTTPRequestHandler):
    """Objects of one bucket by Google's XML interface: their bytes, and a list of names."""

    protocol_version = "HTTP/1.1"
    bucket = "bucket"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        path, _, query = self.path.partition("?")
        name = urllib.parse.unquote(path).removeprefix(f"/{self.bucket}").lstrip("/")
        if not name and "list-type=2" in query:
            return self.listing()
        found = pathlib.Path("shards", pathlib.Path(name).name)
        if not (name.startswith("set/") and found.is_file()):
            return self.send(404, b"<Error><Code>NoSuchKey</Code></Error>", with_body)
        data = found.read_bytes()
        headers = {"ETag": f'"{len(data):x}"', "Last-Modified": MODIFIED}
        if "Range" in self.headers:
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            start, end = int(start), min(int(end) if end else len(data) - 1, len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return self.send(206, data[start : end + 1], with_body, headers)
        self.send(200, data, with_body, headers)

    def listing(self):
        entry = (
            "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2001-09-09T01:46:40.000Z</LastModified>"
            '<ETag>"x"</ETag></Contents>'
        )
        entries = "".join(
            entry.format(xml.sax.saxutils.escape(f"set/{path.name}"), path.stat().st_size) for path in SHARDS
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        self.send(200, body.encode(), True, {"Content-Type": "application/xml"})

    def send(self, status, data, with_body, headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)


def run(saccade, environment, *arguments):
    environment = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run([saccade, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout


def listed(text):
    return [{**shard, "shard": shard["shard"].rsplit("/")[-1]} for shard in json.loads(text)]


def compare(saccade, name, environment, base):
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**environment, "SACCADE_CACHE": f"{scratch}/cache"}
        here = listed(run(saccade, environment, "shards", "list", "--json", "shards/fashion-train-*.tar"))
        far = listed(run(saccade, environment, "shards", "list", "--json", f"{base}/fashion-train-*.tar"))
        if far != here or not here:
            fail(f"{name}: the list is {far}, of the same shards here it is {here}")
        verified = json.loads(run(saccade, environment, "shards", "verify", "--json", f"{base}/fashion-*.tar"))
        if verified["problems"] or verified["samples"] < 7000:
            fail(f"{name}: verified: {verified}")
        for place in (base, "shards"):
            out = f"{scratch}/out-{place.rsplit('/')[-1]}"
            run(saccade, environment, "shards", "reshard", f"{place}/fashion-train-*.tar", "--out", out)
        copies = [pathlib.Path(path) for path in (f"{scratch}/out-set", f"{scratch}/out-shards")]
        names = sorted(path.name for path in copies[1].glob("*.tar"))
        if not names or any((copies[0] / shard).read_bytes() != (copies[1] / shard).read_bytes() for shard in names):
            fail(f"{name}: copies of the shards differ from copies of the same shards here")
        losses = []
        for place in (base, "shards"):
            folder = f"{scratch}/run-{len(losses)}"
            changes = [
                f"data.train={place}/fashion-train-{{000000..000003}}.tar",
                f"data.validation={place}/fashion-validation-{{000000..000001}}.tar",
                "encoder.width=16", "encoder.depth=1", "encoder.heads=2", "predictor.width=16", "predictor.depth=1",
                "train.epochs=0.2", "train.warmup_epochs=0.05", "score.k=5", "telemetry.address=127.0.0.1:0",
            ]
            settings = [part for change in changes for part in ("--set", change)]
            run(saccade, environment, "train", "pipelines/quickstart.toml", "--out", folder, *settings)
            steps = pathlib.Path(folder, "steps.jsonl").read_text().splitlines()
            losses.append([json.loads(step)["loss"] for step in steps])
        if losses[0] != losses[1] or len(losses[0]) < 5:
            fail(f"{name}: the losses are {losses[0]}, on the same shards here {losses[1]}")
        print(f"{name}: {len(far)} shards listed, {verified['samples']} samples verified, {len(losses[0])} steps trained")


def main():
    saccade = sys.argv[1]
    # A line for each request tells nobody more.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    account = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="bucket")
    for path in SHARDS:
        client.upload_file(str(path), "bucket", f"set/{path.name}")
    compare(saccade, "s3", {**account, "AWS_ENDPOINT_URL": endpoint}, "s3://bucket/set")
    server.stop()

    google = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Google)
    threading.Thread(target=google.serve_forever, daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as key:
        base = f"http://127.0.0.1:{google.server_port}"
        json.dump({"gcs_base_url": base, "disable_oauth": True, "client_email": "", "private_key": "",
                   "private_key_id": ""}, key)
        key.flush()
        compare(saccade, "gs", {"GOOGLE_SERVICE_ACCOUNT": key.name}, "gs://bucket/set")
    google.shutdown()


main()
