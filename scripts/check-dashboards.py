"""Checks dashboards/ piece by piece, then against two short runs. Called by check-dashboards.

Every deviation ends it with a message that says where to look. The last it prints is a table of what was checked.
"""

import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import typing
import urllib.request

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from watching import DASHBOARDS, Watched, dashboard, draw, fail, free_port, panels

NAMES = ["overview", "throughput", "learning"]
# An Energy Transformer too, for its energy; and the overview is meant for several runs.
RUNS = ["quickstart", "fashion-energy"]
EVERY = "|".join(RUNS)
# Far more than two small runs take on a busy machine to be scored once.
PATIENCE = 300
POINTS = 240

# Panels that may have no answer, of which run, and why.
MAY_BE_EMPTY = {
    ("overview", "Alerts", EVERY): "no alert fires while all is well",
    ("learning", "Energy along the iterations", "quickstart"): "a ViT has no energy",
} | {
    ("throughput", title, run): "there need be no GPU here; the query is parsed"
    for title in ["GPU in use", "GPU memory", "GPU power", "GPU temperature", "GPU, bytes over PCIe"]
    for run in RUNS
} | {
    ("throughput", title, run): "all shards are here; the query is parsed"
    for title in ["Time of fetchers", "Servers asked again"]
    for run in RUNS
}
# Keys that Grafana knows and its published types do not.
UNTYPED = {"definition", "insertNulls"}

# Small, and so that every series has a value soon: scores, checkpoints, bad samples, ranks.
COMMON = [
    "device=cpu:2",
    "train.warmup_epochs=1",
    "checkpoint.every_steps=40",
    "checkpoint.keep=1",
    "stream.max_bad_share=0.2",
    "score.k=5",
    "score.train_samples=200",
    "data.validation=shards/fashion-validation-000000.tar",
]
# Until all of these have an answer for as many series, the runs have not shown everything.
AWAITED = {
    'saccade_score{score="knn"} > 0': 2,
    "count_over_time(saccade_feature_rankme[1m]) > 15": 6,
    "count_over_time(saccade_feature_alpha[1m]) > 5": 4,
    "count by (instance) (saccade_energy)": 1,
    "count by (instance) (saccade_stage_skipped_total)": 2,
    'saccade_stage_samples_total{stage="checkpoint"} > 0': 2,
    'rate(saccade_stage_samples_total{stage="train"}[10s]) > 0': 2,
    "rate(saccade_probe_samples_total[1m]) > 0": 2,
    "rate(saccade_rank_seconds_total[1m]) > 0": 4,
    "saccade:seconds_left > 0": 2,
}
# Settings, and what is awaited beyond that, when there is no hurry: pictures of a run of some minutes.
QUICK = (["train.epochs=1000", "train.batch=16", "score.every_epochs=0.13"], {})
THOROUGH = (["train.epochs=20", "score.every_epochs=0.5"], {"saccade_step / saccade_steps_planned > 0.04": 2})
PATIENCE_FOR_PICTURES = 900


def call(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


# What is there before anything runs


def configuration():
    call("promtool", "check", "config", "--agent", DASHBOARDS / "agent.yml")
    out = call("promtool", "check", "config", DASHBOARDS / "prometheus.yml")
    return ", ".join(re.findall(r"\d+ rules? found", out)).replace(" found", "")


def rule_tests():
    files = sorted((DASHBOARDS / "rules/tests").glob("*.yml"))
    call("promtool", "test", "rules", *files)
    text = "".join(file.read_text() for file in files)
    for alert in re.findall(r"- alert: (\w+)", (DASHBOARDS / "rules/alerts.yml").read_text()):
        expected = [
            found
            for found in re.findall(r"exp_samples:\s*\n?\s*(.*)", text)
            if f'"{alert}", alertstate="firing"' in found
        ]
        silent = re.findall(rf'alertname="{alert}"[^\n]*exp_samples: \[\]', text)
        if not expected or not silent:
            fail(f"rules/tests: {alert} needs a test in which it fires, and one in which it is silent")
    return f"{len(re.findall('- name:', text))} cases"


def committed():
    call(sys.executable, "-B", DASHBOARDS / "source/build.py", "--check")
    return "as their sources say"


def types():
    register_default_plugins()
    read = {name: dashboard(name) for name in NAMES}
    for name, written in read.items():
        typed = Dashboard.from_json(written)
        wrong = [*lost(written, json.loads(JSONEncoder().encode(typed)), name), *untrue(typed, name)]
        if wrong:
            fail("not as Grafana's types have it; look in dashboards/source:\n  " + "\n  ".join(wrong[:10]))
        for panel in panels(written):
            if len(panel["description"]) < 60:
                fail(f"{name}, {panel['title']}: the description must say what to do when it looks bad")
    return f"{sum(len(panels(one)) for one in read.values())} panels"


def lost(written, read, place):
    """What Grafana's types leave out or change: a misspelt key, a value of the wrong kind."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key in read:
                yield from lost(value, read[key], f"{place}.{key}")
            elif key not in UNTYPED:
                yield f"{place}.{key}: unknown key"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, pair in enumerate(zip(written, read)):
            yield from lost(*pair, f"{place}[{number}]")
    elif written != read:
        yield f"{place}: {written!r} is read as {read!r}"


def untrue(thing, place):
    """Fields whose plain values are not of the type that they are declared to have."""
    if isinstance(thing, list):
        for number, part in enumerate(thing):
            yield from untrue(part, f"{place}[{number}]")
    elif hasattr(thing, "__dict__") and type(thing).__module__.startswith("grafana_foundation_sdk"):
        declared = {
            key: hint for base in type(thing).__mro__ for key, hint in getattr(base, "__annotations__", {}).items()
        }
        for key, value in vars(thing).items():
            plain = {
                kind
                for kind in typing.get_args(declared.get(key)) or (declared.get(key),)
                if kind in (int, float, str, bool)
            }
            fits = any(isinstance(value, kind) or (kind is float and isinstance(value, int)) for kind in plain)
            if (
                plain
                and isinstance(value, (bool, int, float, str))
                and not isinstance(value, tuple(plain))
                and not fits
            ):
                yield f"{place}.{key}: {value!r} should be {' or '.join(kind.__name__ for kind in plain)}"
            yield from untrue(value, f"{place}.{key}")


def catalogue():
    text = pathlib.Path("src/telemetry/catalogue.rs").read_text()
    return set(re.findall(r'"((?:saccade|process)_[a-z0-9_]+)"', text))


# Two runs and a Prometheus


def spoilt(folder):
    """A copy of the training shards, some samples of which cannot be decoded."""
    for shard in sorted(pathlib.Path("shards").glob("fashion-train-*.tar")):
        copy = shutil.copy(shard, folder)
        with tarfile.open(copy) as members, open(copy, "r+b") as out:
            images = [member for member in members if member.name.endswith((".png", ".jpg"))]
            for number, member in enumerate(images[::40]):
                # No head: of unknown format. No middle: damaged.
                start, length = (0, 16) if number % 2 else (member.size // 3, member.size // 3)
                out.seek(member.offset_data + start)
                out.write(bytes(length))
    return f"{folder}/fashion-train-{{000000..000003}}.tar"


def lacking(prometheus, queries):
    return next((query for query, series in queries.items() if len(prometheus.now(query)) < series), None)


def watched(saccade, folder, is_quick):
    """Runs both pipelines until everything is there; returns each panel's answers."""
    data, began = spoilt(folder), time.time()
    ports = {run: free_port() for run in RUNS}
    settings, more = QUICK if is_quick else THOROUGH
    with Watched(folder) as programs:
        for run, port in ports.items():
            changes = [*COMMON, *settings, f"data.train={data}", f"telemetry.address=127.0.0.1:{port}"]
            changes = [part for change in changes for part in ("--set", change)]
            out = folder / f"run-{run}"
            programs.start(run, [saccade, "train", f"pipelines/{run}.toml", "--out", out, *changes])
        prometheus = programs.prometheus(ports.values())
        exported(ports["quickstart"])
        patience = PATIENCE if is_quick else PATIENCE_FOR_PICTURES
        programs.until(lambda: lacking(prometheus, AWAITED | more), "the runs do not show everything", patience)
        sound(prometheus)
        return answers(prometheus, began, ports)


def exported(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        names = {line.split()[2] for line in answer.read().decode().splitlines() if line.startswith("# HELP")}
    # Bad samples, energies, scores and the ranks' shares come later; GPUs need not be there.
    late = {"saccade_stage_skipped_total", "saccade_energy", "saccade_score", "saccade_loss_term", "saccade_collapse"}
    late.add("saccade_rank_seconds_total")
    # None is fetched.
    late.add("saccade_fetch_retries_total")
    missing = {name for name in catalogue() - names - late if not name.startswith(("saccade_feature_", "saccade_gpu_"))}
    if missing:
        fail(f"the binary does not export {', '.join(sorted(missing))}: it is older than the catalogue; build it anew")


def sound(prometheus):
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                fail(f"rules: {rule['name']}: {rule.get('lastError', rule['health'])}")
            for alert in rule.get("alerts", []):
                if "error expanding" in json.dumps(alert["annotations"]):
                    fail(f"rules/alerts.yml: {rule['name']}: {alert['annotations']}")


def answers(prometheus, began, ports):
    """Asks every panel's queries, for each run that it can be about."""
    found, end = {}, time.time()
    times = {"from": began, "to": end, "step": max(1, round((end - began) / POINTS))}
    for name in NAMES:
        runs = {EVERY: ""} if name == "overview" else {run: f"127.0.0.1:{port}" for run, port in ports.items()}
        for panel in panels(dashboard(name)):
            for run, instance in runs.items():
                answer = prometheus.panel(panel, run, instance, began, end, times["step"])
                found.setdefault((name, run), {})[panel["id"]] = answer
    return found, times, ports


def pictures(found, times, ports):
    """One of each dashboard; the first run shows where time goes, the last has energies."""
    for name, run in zip(NAMES, [EVERY, RUNS[0], RUNS[-1]], strict=True):
        variables = [["Run", run], ["Instance", f"127.0.0.1:{ports[run]}"]] if run in ports else [["Run", "All"]]
        yield {
            "name": name,
            "dashboard": dashboard(name),
            "variables": variables,
            "answers": found[name, run],
            **times,
        }


def looked_at(answered):
    found, _, _ = answered
    asked, series = 0, 0
    for (name, run), by_panel in found.items():
        titles = {panel["id"]: panel["title"] for panel in panels(dashboard(name))}
        for number, queries in by_panel.items():
            asked += 1
            for letter, answer in queries.items():
                series += len(answer)
                place = f"{name}, panel '{titles[number]}', query {letter}, run {run}"
                if not answer and (name, titles[number], run) not in MAY_BE_EMPTY:
                    fail(f"{place}: no answer; look in dashboards/source/{name}.py")
                for one in answer:
                    if not any(math.isfinite(float(value)) for _, value in one["values"]):
                        fail(f"{place}: {one['metric']} is never a number; look in dashboards/source/{name}.py")
    return f"{asked} panels, {series} series"


def main(saccade, out, *options):
    is_quick, answered = "--quick" in options, []

    def of_two_runs():
        with tempfile.TemporaryDirectory() as folder:
            answered.extend(watched(saccade, pathlib.Path(folder), is_quick))
        return looked_at(answered)

    parts = {
        "configuration": configuration,
        "tests of the alerts": rule_tests,
        "dashboards' files": committed,
        "Grafana's types": types,
        "panels of two runs": of_two_runs,
    }
    if not is_quick:
        parts["pictures"] = lambda: draw(pathlib.Path(out), list(pictures(*answered)))
    table = []
    for name, part in parts.items():
        began = time.monotonic()
        result = part()
        table.append(f"{time.monotonic() - began:6.1f} s  {name:20}  {result}")
        print(f"{name}: {result}", flush=True)
    print("\n" + "\n".join(table))


if __name__ == "__main__":
    main(*sys.argv[1:])
