"""Prints the table of a run; called by run.sh with the rows on standard input, one `kind|name|section|...` a line.

The folder named first holds NAME.ROUND.json for each round that a row finished, or NAME.failed with the reason.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

TITLES = {"jpeg": "From JPEG", "decoded": "Decoded beforehand, at most 256 pixels a side"}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--crop-scale", type=float, nargs=2)
    parser.add_argument("--crop-ratio", type=float, nargs=2)
    parser.add_argument("--ours", help="version of saccade")
    parser.add_argument("--commit")
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


def machine():
    lines = subprocess.check_output(["lscpu"], text=True).splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {"model": fields.get("Model name", platform.machine()).strip(), "cores": os.cpu_count()}


def round_of(path, ours):
    """One round's images per second and CPU milliseconds per image, and the version of what was measured."""
    # Packages may talk on standard output before the figures, which are the last line; ours are all of it.
    text = path.read_text()
    figures = json.loads(text if ours else text.splitlines()[-1])
    if ours:
        return figures["samples_per_second"], figures["cpu_milliseconds_per_sample"], None
    images = figures["images"]
    return images / figures["seconds"], 1e3 * figures["cpu_seconds"] / images, figures["version"]


def row_of(line, options):
    kind, name, section = line.split("|")[:3]
    row = {"name": name, "section": section, "ours": kind == "ours"}
    failed = options.results / f"{name}.failed"
    if failed.exists():
        return {**row, "failed": failed.read_text().strip()}
    rounds = [round_of(options.results / f"{name}.{number + 1}.json", row["ours"]) for number in range(options.rounds)]
    rates, cpu, versions = zip(*rounds)
    return {
        **row,
        "version": versions[0] or f"{options.ours}, {options.commit}",
        "images_per_second": statistics.median(rates),
        "images_per_second_rounds": rates,
        "cpu_milliseconds_per_image": statistics.median(cpu),
        "cpu_milliseconds_per_image_rounds": cpu,
    }


def compare(rows):
    """Adds ours / theirs: the median of the rounds' ratios, since a machine's mood lasts longer than a round."""
    for row in rows:
        peers = [other for other in rows if other["section"] == row["section"]]
        base = next((other for other in peers if other["ours"]), None)
        if not base or base is row or "failed" in base or "failed" in row:
            continue
        for figure in ("images_per_second", "cpu_milliseconds_per_image"):
            pairs = zip(base[f"{figure}_rounds"], row[f"{figure}_rounds"])
            row[f"ours_to_theirs_{figure}"] = statistics.median(mine / other for mine, other in pairs)


def line_of(row):
    if "failed" in row:
        return f"| {row['name']} | {row['failed'].replace('|', '/')} | | | | |"
    rates = row["images_per_second_rounds"]
    ratios = [row.get(f"ours_to_theirs_{figure}") for figure in ("images_per_second", "cpu_milliseconds_per_image")]
    ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
    rate = f"{row['images_per_second']:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
    cpu = f"{row['cpu_milliseconds_per_image']:.2f}"
    return f"| {row['name']} | {rate} | {cpu} | {ratios[0]} | {ratios[1]} | {row['version']} |"


def print_table(report):
    where, settings = report["machine"], report["settings"]
    print(f"{report['date']}, {where['model']}, {where['cores']} cores; {settings['rounds']} x "
          f"{settings['seconds']:g} s, {settings['workers']} workers, batches of {settings['batch']}, "
          f"{settings['size']} x {settings['size']}, crop scale {settings['crop_scale']}.")
    for section, title in TITLES.items():
        rows = [row for row in report["rows"] if row["section"] == section]
        if rows:
            print(f"\n{title}:\n")
            print("| loader | images/s, median (range) | CPU ms/image "
                  "| images/s, ours / theirs | CPU, ours / theirs | version |")
            print("| --- | ---: | ---: | ---: | ---: | --- |")
            print("\n".join(map(line_of, rows)))


def main():
    options = arguments()
    rows = [row_of(line.strip(), options) for line in sys.stdin if line.strip()]
    compare(rows)
    settings = ("rounds", "seconds", "workers", "batch", "size", "crop_scale", "crop_ratio")
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "commit": options.commit,
        "settings": {setting: getattr(options, setting) for setting in settings},
        "rows": rows,
    }
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


main()
