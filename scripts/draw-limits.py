"""The part of draw-limits that runs, asks and draws. An example is two runs that differ in one change."""

import collections
import contextlib
import copy
import dataclasses
import functools
import http.server
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from watching import SCRAPE, Watched, dashboard, draw, fail, free_port, panels

SECONDS = 45
EXAMPLES = ["fetch", "read", "decode", "train", "eval"]
STEP = 1
# A ViT so small that two cores train on more samples than a slow data path gives.
TINY = [
    "encoder.width=16", "encoder.depth=1", "encoder.heads=2", "predictor.width=16", "predictor.depth=1",
    "train.epochs=1000", "checkpoint.every_steps=100000", "score.every_epochs=1000",
]  # fmt: skip
SMALL = ["train.epochs=1000", "checkpoint.every_steps=100000", "score.every_epochs=1000"]


@dataclasses.dataclass
class Half:
    """One run: what it is called in the picture, and what it changes."""

    says: str
    changes: list


@dataclasses.dataclass
class Example:
    before: Half
    after: Half
    # The panel that says why, besides those that all have.
    panel: str
    settings: list
    environment: dict = dataclasses.field(default_factory=dict)


class Slow(http.server.BaseHTTPRequestHandler):
    """Files by HTTP, all requests together at RATE bytes a second."""

    protocol_version = "HTTP/1.1"
    RATE, CHUNK = 1_500_000, 65_536
    turn = threading.Lock()

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        path = self.folder / pathlib.PurePath(self.path).name
        if not path.is_file():
            return self.send_error(404)
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        if wanted := self.headers.get("Range"):
            first, end = wanted.removeprefix("bytes=").split("-")
            first, last, status = int(first), min(int(end or last), last), 206
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if with_body:
            self.body(path, first, last - first + 1)

    def body(self, path, first, left):
        with open(path, "rb") as file:
            file.seek(first)
            # The last run's requests end with it.
            with contextlib.suppress(ConnectionError):
                while left > 0 and (chunk := file.read(min(self.CHUNK, left))):
                    with self.turn:
                        time.sleep(len(chunk) / self.RATE)
                    self.wfile.write(chunk)
                    left -= len(chunk)


@contextlib.contextmanager
def served(folder):
    handler = type("SlowFolder", (Slow,), {"folder": pathlib.Path(folder)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def examples(photographs, decoded, small, far):
    """Of photographs, the same decoded and smaller, decoded and small, and the last in small shards on a slow server."""
    validation = f"data.validation={small}"
    return {
        "fetch": Example(
            Half("data.cache_gb = 0.012, half of the set", ["data.cache_gb=0.012"]),
            Half("data.cache_gb = 1, all of it", ["data.cache_gb=1"]),
            "Bytes fetched per second",
            [*TINY, f"data.train={far}", validation, "data.window=4"],
        ),
        "read": Example(
            Half("stream.reads = 2", ["stream.reads=2"]),
            Half("stream.reads = 64", ["stream.reads=64"]),
            "Time of readers",
            [*TINY, f"data.train={small}", validation],
            {"SLOW_DISK_MS": "20", "LD_PRELOAD": "slow-disk.so"},
        ),
        "decode": Example(
            Half("photographs of 454 x 384 pixels", [f"data.train={photographs}"]),
            Half("the same after shards reshard --decode max-side=96", [f"data.train={decoded}"]),
            "Time of workers",
            # Few patches of larger views: less to train on and more to decode.
            [*TINY, validation, "stream.workers=1", "augment.size=56", "encoder.patch=14", "mask.min_keep=1"],
        ),
        "train": Example(
            Half("stream.workers = 1, batches_ahead = 1", ["stream.workers=1", "stream.batches_ahead=1"]),
            Half("stream.workers = 2, batches_ahead = 8", ["stream.workers=2", "stream.batches_ahead=8"]),
            "Time of workers",
            SMALL,
        ),
        "eval": Example(
            Half("score.every_epochs = 0.1", ["score.every_epochs=0.1"]),
            Half("score.every_epochs = 2", ["score.every_epochs=2"]),
            "Time of the trainer",
            SMALL,
        ),
    }


def run(saccade, out, name, example, half):
    """Trains for SECONDS from its first step; returns each shown panel's answers, from time 0, and figures."""
    port = free_port()
    changes = [*example.settings, *half.changes, f"telemetry.address=127.0.0.1:{port}"]
    changes = [part for change in changes for part in ("--set", change)]
    environment = {key: str(out / value) if key == "LD_PRELOAD" else value for key, value in example.environment.items()}
    with tempfile.TemporaryDirectory() as folder, Watched(pathlib.Path(folder)) as programs:
        command = [saccade, "train", "pipelines/quickstart.toml", "--out", f"{folder}/run", *changes]
        programs.start("run", command, {**os.environ, **environment, "SACCADE_CACHE": f"{folder}/cache"})
        prometheus = programs.prometheus([port])
        stepping = functools.partial(prometheus.now, "rate(saccade_step_seconds_count[5s]) > 0")
        programs.until(lambda: None if stepping() else "a step", f"{name}: no step", 60)
        began = time.time()
        programs.until(lambda: "time" if time.time() < began + SECONDS else None, name, SECONDS + 60)
        shown, instance = shown_panels(example), f"127.0.0.1:{port}"
        answers = [prometheus.panel(panel, "quickstart", instance, began, began + SECONDS, STEP) for panel, _ in shown]
        for queries in answers:
            for series in queries.values():
                for one in series:
                    one["values"] = [[at - began, value] for at, value in one["values"]]
        return answers, figures(prometheus, began)


def figures(prometheus, began):
    """Of the second half of the run."""
    half = SECONDS // 2
    ask = lambda query: prometheus.ask("query", query=query, time=began + SECONDS)["result"]  # noqa: E731
    rate = ask(f'rate(saccade_stage_samples_total{{stage="train"}}[{half}s])')[0]["value"][1]
    waits = ask(
        f'rate(saccade_stage_starved_seconds_total{{stage="train"}}[{half}s])'
        f' / (rate(saccade_stage_starved_seconds_total{{stage="train"}}[{half}s])'
        f' + rate(saccade_stage_busy_seconds_total{{stage="train"}}[{half}s]))'
    )[0]["value"][1]
    limits = prometheus.ask(
        "query_range", query="saccade_bottleneck == 1", start=began + half, end=began + SECONDS, step=SCRAPE
    )["result"]
    counts = collections.Counter({series["metric"]["stage"]: len(series["values"]) for series in limits})
    return f"{float(rate):7.0f} samples/s, waits {float(waits):5.1%}, limited by {dict(counts.most_common())}"


def shown_panels(example):
    """Panels of Throughput, and their places in half of a picture."""
    places = {
        ("stat", "Samples per second"): (0, 1, 4, 3),
        ("stat", "Limited by"): (4, 1, 4, 3),
        ("stat", "Device waits for data"): (8, 1, 4, 3),
        ("state-timeline", "Limited by, over time"): (0, 4, 12, 4),
        ("timeseries", example.panel): (0, 8, 6, 7),
        ("timeseries", "Queues, how full"): (6, 8, 6, 7),
    }
    by_title = {panel["title"]: panel for panel in panels(dashboard("throughput"))}
    found = []
    for (kind, title), place in places.items():
        if by_title.get(title, {}).get("type") != kind:
            fail(f"Throughput has no {kind} '{title}'; look in scripts/draw-limits.py")
        found.append((by_title[title], place))
    return found


def picture(name, example, halves):
    """Both runs side by side, as one dashboard."""
    drawn, answers = [], {}
    for side, (half, answered) in enumerate(zip((example.before, example.after), halves, strict=True)):
        left = 12 * side
        grid = {"x": left, "y": 0, "w": 12, "h": 1}
        drawn.append({"id": len(drawn), "type": "row", "title": half.says, "gridPos": grid})
        for (panel, (x, y, w, h)), queries in zip(shown_panels(example), answered, strict=True):
            grid = {"x": left + x, "y": y, "w": w, "h": h}
            drawn.append({**copy.deepcopy(panel), "id": len(drawn), "gridPos": grid})
            answers[len(drawn) - 1] = queries
    return {
        "name": f"limited-by-{name}",
        "dashboard": {"title": f"Limited by {name}", "panels": drawn},
        "variables": [["left", "before"], ["right", "after"]],
        "answers": answers,
        "from": 0,
        "to": SECONDS,
        "step": STEP,
    }


def call(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}: {done.stderr}")


def main(saccade, out, photographs, *wanted):
    out = pathlib.Path(out)
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(pathlib.Path(photographs).glob("*.tar"))
        if not sources:
            fail(f"{photographs}: no shards in it")
        if unknown := set(wanted) - set(EXAMPLES):
            fail(f"{', '.join(sorted(unknown))}: not one of {', '.join(EXAMPLES)}")
        for name, side in {"decoded": 96, "small": 64}.items():
            call(saccade, "shards", "reshard", *sources, "--out", f"{folder}/{name}", "--decode", f"max-side={side}")
        small = sorted(pathlib.Path(folder, "small").glob("*.tar"))
        call(saccade, "shards", "reshard", *small, "--out", f"{folder}/far", "--name", "far", "--samples", "100")
        last = len(list(pathlib.Path(folder, "far").glob("*.tar"))) - 1
        with served(f"{folder}/far") as address:
            far = f"{address}/far-{{000000..{last:06}}}.tar"
            known = examples(f"{photographs}/*.tar", f"{folder}/decoded/*.tar", f"{folder}/small/*.tar", far)
            made = []
            for name in wanted or EXAMPLES:
                halves = []
                for half in (known[name].before, known[name].after):
                    answers, said = run(saccade, out, name, known[name], half)
                    halves.append(answers)
                    print(f"{name:7} {half.says:55} {said}", flush=True)
                made.append(picture(name, known[name], halves))
    print(draw(out, made))


main(*sys.argv[1:])
