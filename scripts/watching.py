"""A real Prometheus beside real runs, and what it answers to a dashboard's panels: for check-dashboards and draw-limits."""

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

DASHBOARDS = pathlib.Path("dashboards")
# Once a second, so that rates are there soon.
SCRAPE = 1
# What Grafana takes at that pace: four scrapes, and some for a machine that is busy.
RATE_INTERVAL = "10s"
BETWEEN_POLLS = 0.25
PATIENCE_FOR_PROMETHEUS = 60


def fail(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: {message}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def dashboard(name):
    return json.loads((DASHBOARDS / "grafana" / f"{name}.json").read_text())


class Watched:
    """Programs that end with the `with` block, each with a log in the folder, and a Prometheus that scrapes runs."""

    def __init__(self, folder):
        self.folder, self.children, self.stack = folder, [], contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start(self, name, command, environment=None):
        log = self.folder / f"{name}.log"
        with open(log, "w") as out:
            child = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=environment)
        self.children.append((child, log))
        self.stack.callback(child.wait)
        self.stack.callback(child.send_signal, signal.SIGKILL)
        return child

    def until(self, lacking, what, patience):
        """Polls until nothing is lacking; fails when a program ends or after so many seconds."""
        deadline = time.monotonic() + patience
        while (still := lacking()) is not None:
            for child, log in self.children:
                if child.poll() is not None:
                    fail(f"{log.name} ended:\n{log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                fail(f"{what}: after {patience} s still no answer to: {still}")
            time.sleep(BETWEEN_POLLS)

    def prometheus(self, ports):
        """A Prometheus as dashboards/prometheus.yml configures it, but for its pace, that scrapes these ports by now."""
        config = (DASHBOARDS / "prometheus.yml").read_text()
        config = config.replace("5s", f"{SCRAPE}s").replace("rules/", f"{(DASHBOARDS / 'rules').resolve()}/")
        targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        path, port = self.folder / "prometheus.yml", free_port()
        path.write_text(config.replace('"127.0.0.1:9400"', targets))
        listen = f"--web.listen-address=127.0.0.1:{port}"
        self.start(
            "prometheus",
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder}/data", listen],
        )
        found = Prometheus(port)
        ready = lambda: None if found.is_ready() else "/-/ready"  # noqa: E731
        up = lambda: None if len(found.now("up == 1")) == len(ports) else "up == 1"  # noqa: E731
        self.until(ready, "Prometheus does not answer", PATIENCE_FOR_PROMETHEUS)
        self.until(up, "no scrape", PATIENCE_FOR_PROMETHEUS)
        return found


class Prometheus:
    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"{self.address}/-/ready").status == 200
        except OSError:
            return False

    def ask(self, path, **parameters):
        try:
            with urllib.request.urlopen(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            fail(f"{parameters.get('query', path)}: {json.load(error).get('error')}")

    def now(self, query):
        return self.ask("query", query=query)["result"]

    def panel(self, panel, run, instance, start, end, step):
        """The answers to each of the panel's queries, by their letters."""
        found = {}
        for target in panel["targets"]:
            query = substituted(target["expr"], run, instance)
            if target.get("instant"):
                series = [one | {"values": [one["value"]]} for one in self.now(query)]
            else:
                series = self.ask("query_range", query=query, start=start, end=end, step=step)["result"]
            found[target["refId"]] = series
        return found


def substituted(query, run, instance):
    for name, value in {"$__rate_interval": RATE_INTERVAL, "$run": run, "$instance": instance}.items():
        query = query.replace(name, value)
    if "$" in query:
        fail(f"{query}: a variable that is not known here")
    return query


def draw(out, pictures):
    """Draws each picture: its name, dashboard, variables, answers by panel, times; returns what was drawn."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "pictures.json").write_text(json.dumps(pictures))
    drawn = subprocess.run([DASHBOARDS / "pictures/draw", out], capture_output=True, text=True)
    if drawn.returncode != 0:
        fail(f"dashboards/pictures/draw:\n{drawn.stdout}{drawn.stderr}")
    return drawn.stdout.strip().splitlines()[-1]
