"""Writes dashboards/grafana/*.json from the sources beside this file.

Usage: python3 dashboards/source/build.py [--check]

With --check nothing is written; it fails when a committed file is not what the sources say.
"""

import json
import pathlib
import sys

# No __pycache__ beside the sources.
sys.dont_write_bytecode = True

import learning
import overview
import throughput

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "grafana"
DASHBOARDS = {"overview": overview, "throughput": throughput, "learning": learning}


def main():
    stale = []
    for name, source in DASHBOARDS.items():
        path = FOLDER / f"{name}.json"
        text = json.dumps(source.DASHBOARD, indent=1, ensure_ascii=False) + "\n"
        if "--check" in sys.argv[1:]:
            stale += [] if path.exists() and path.read_text() == text else [path.name]
        else:
            path.write_text(text)
    if stale:
        sys.exit(
            f"dashboards/grafana: {', '.join(stale)} not as the sources say; run python3 dashboards/source/build.py"
        )


if __name__ == "__main__":
    main()
