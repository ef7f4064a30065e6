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
    """Objects of one bucket by Google's XML interface: their bytes, a list of names, and writing, whole or in parts."""

    protocol_version = "HTTP/1.1"
    bucket = "bucket"
    objects = {}  # name: (bytes, generation)
    uploads = {}  # number: parts by number
    lock = threading.Lock()

    def log_message(self, *_):
        pass

    def name_and_query(self):
        path, _, query = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        return urllib.parse.unquote(path).removeprefix(f"/{self.bucket}").lstrip("/"), query

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def do_PUT(self):
        name, query = self.name_and_query()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "uploadId" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = data
            return self.send(200, b"", True, {"ETag": f'"{query["partNumber"]}"'})
        self.keep(name, data)

    def do_POST(self):
        name, query = self.name_and_query()
        self.rfile.read(int(self.headers["Content-Length"]))
        if "uploads" in query:
            number = str(len(self.uploads))
            self.uploads[number] = {}
            body = f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
            return self.send(200, body.encode(), True)
        parts = self.uploads.pop(query["uploadId"])
        body = b'<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>'
        self.keep(name, b"".join(parts[number] for number in sorted(parts)), body)

    def do_DELETE(self):
        name, _ = self.name_and_query()
        self.send(404 if self.objects.pop(name, None) is None else 204, b"", False)

    def keep(self, name, data, body=b""):
        with self.lock:
            before = self.objects.get(name, (b"", 0))[1]
            if self.headers.get("x-goog-if-generation-match") not in (None, str(before)):
                return self.send(412, b"<Error><Code>PreconditionFailed</Code></Error>", True)
            generation = before + 1
            self.objects[name] = (data, generation)
        self.send(200, body, True, {"ETag": f'"{generation}"', "x-goog-generation": str(generation)})

    def answer(self, with_body):
        name, query = self.name_and_query()
        if not name and query.get("list-type") == "2":
            return self.listing(query.get("prefix", ""))
        if name not in self.objects:
            return self.send(404, b"<Error><Code>NoSuchKey</Code></Error>", with_body)
        data, generation = self.objects[name]
        headers = {"ETag": f'"{generation}"', "Last-Modified": MODIFIED, "x-goog-generation": str(generation)}
        if "Range" in self.headers:
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            start, end = int(start), min(int(end) if end else len(data) - 1, len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return self.send(206, data[start : end + 1], with_body, headers)
        self.send(200, data, with_body, headers)

    def listing(self, prefix):
        entry = (
            "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2001-09-09T01:46:40.000Z</LastModified>"
            '<ETag>"x"</ETag></Contents>'
        )
        found = sorted(name for name in self.objects if name.startswith(prefix))
        entries = "".join(entry.format(xml.sax.saxutils.escape(name), len(self.objects[name][0])) for name in found)
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


def reshard(saccade, environment, out, *more):
    environment = {"PATH": os.environ["PATH"], **environment}
    arguments = ["shards", "reshard", "shards/fashion-train-*.tar", "--shuffle", "1", "--out", out, *more]
    return subprocess.Popen([saccade, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished(*calls):
    for call in calls:
        _, said = call.communicate()
        if call.returncode != 0:
            fail(f"{' '.join(call.args)}: {said.decode()}")


def files(folder):
    """But for indexes, which hold the time."""
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.suffix != ".index"}


def write(saccade, name, environment, base, there):
    """Sets written to a store are those written here; `there` says what the store has."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**environment, "SACCADE_CACHE": f"{scratch}/cache"}
        # Shards that go in parts and in one piece; and one that is killed on its way.
        for set_name, size in (("large", "10MB"), ("small", "300kB")):
            layout = ("--name", set_name, "--size", size)
            folder = f"{scratch}/{set_name}"
            finished(reshard(saccade, environment, folder, *layout))
            call = reshard(saccade, environment, f"{base}/{set_name}", *layout)
            if set_name == "small":
                while call.poll() is None and len(there(f"{set_name}/")) < 6:
                    pass
                call.kill()
                call.communicate()
                sent = {key for key in there(f"{set_name}/") if key.endswith(".tar")}
                if call.returncode != -9 or f"{set_name}/small.json" in there(f"{set_name}/"):
                    fail(f"{name}: the call was not killed in its middle")
                call = reshard(saccade, environment, f"{base}/{set_name}", *layout)
            finished(call)
            found = {key.rsplit("/")[-1]: data for key, data in there(f"{set_name}/").items() if ".index" not in key}
            if found != files(folder):
                fail(f"{name}: {set_name} has {sorted(found)}, or other bytes, here it is {sorted(files(folder))}")
        # Two at once, which share the checksums.
        finished(*[reshard(saccade, environment, f"{base}/both", "--name", one, "--samples", "500") for one in "ab"])
        found = there("both/")
        shards = {key.rsplit("/")[-1] for key in found if key.endswith(".tar")}
        sums = {line.split()[1] for line in found["both/SHA256SUMS"].decode().splitlines()}
        if sums != shards or len(shards) < 20:
            fail(f"{name}: the checksums are of {sorted(sums)}, the shards are {sorted(shards)}")
        verified = json.loads(run(saccade, environment, "shards", "verify", "--json", f"{base}/both/a-*.tar"))
        if verified["problems"] or verified["samples"] != 6000:
            fail(f"{name}: verified: {verified}")
        stayed = sorted(str(path) for path in pathlib.Path(scratch, "cache", "outgoing").rglob("*"))
        if stayed:
            fail(f"{name}: on their way stayed {stayed}")
        print(f"{name}: sets written, one of them killed after {len(sent)} shards, {len(shards)} shards by two at once")


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
    account["AWS_ENDPOINT_URL"] = endpoint
    compare(saccade, "s3", account, "s3://bucket/set")

    def there(prefix):
        names = [entry["Key"] for entry in client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])]
        return {name: client.get_object(Bucket="bucket", Key=name)["Body"].read() for name in names}

    write(saccade, "s3", account, "s3://bucket", there)
    server.stop()

    Google.objects = {f"set/{path.name}": (path.read_bytes(), 1) for path in SHARDS}
    google = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Google)
    # A call that is killed leaves a connection behind.
    google.handle_error = lambda *_: None
    threading.Thread(target=google.serve_forever, daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as key:
        base = f"http://127.0.0.1:{google.server_port}"
        json.dump({"gcs_base_url": base, "disable_oauth": True, "client_email": "", "private_key": "",
                   "private_key_id": ""}, key)
        key.flush()
        account = {"GOOGLE_SERVICE_ACCOUNT": key.name}
        compare(saccade, "gs", account, "gs://bucket/set")

        def kept(prefix):
            return {name: data for name, (data, _) in list(Google.objects.items()) if name.startswith(prefix)}

        write(saccade, "gs", account, "gs://bucket", kept)
    google.shutdown()


main()
