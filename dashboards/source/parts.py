"""What the dashboards are made of: queries, panels, and the places of panels on a page 24 columns wide."""

STAGES = ["fetch", "read", "decode", "augment", "mask", "batch", "upload", "train", "checkpoint", "eval"]
# These share one pool of workers, so that only the pool as a whole can be busy or idle.
POOL = "decode|augment|mask|batch"

# Okabe and Ito's colours, which the colour-blind tell apart, and two for what is rare. Each stage has its own.
SKY, ORANGE, GREEN, YELLOW, BLUE, RED, PINK, GREY, DARK, VIOLET, BROWN = (
    "#56B4E9",
    "#E69F00",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8E8E8E",
    "#4A4A4A",
    "#9A8FD9",
    "#B8860B",
)
STAGE_COLOURS = dict(zip(STAGES, [GREY, SKY, ORANGE, YELLOW, GREEN, PINK, BLUE, RED, VIOLET, BROWN], strict=True))
# Waiting is drawn in greys, so that work stands out.
STARVED, BLOCKED = "#D9D9D9", "#7A7A7A"

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
INTERVAL = "$__rate_interval"


def rate(metric, labels="", window=INTERVAL):
    return f"rate({metric}{{{labels}}}[{window}])" if labels else f"rate({metric}[{window}])"


def of_one(query):
    """The query's answer for the run that is chosen, as long as that run is on the instance."""
    return f'({query}) and on (instance, job) saccade_run_info{{run="$run", instance="$instance"}}'


def of_each(query):
    """The query's answer for every run that is chosen, with the run's name."""
    return f'({query}) * on (instance, job) group_left (run) saccade_run_info{{run=~"$run"}}'


def limiting():
    """The number of the stage that limits, from 1; LIMITING turns it into a name."""
    terms = [f'{number} * saccade_bottleneck{{stage="{stage}"}}' for number, stage in enumerate(STAGES, 1)]
    return f"sum by (instance, job) ({' or '.join(terms)})"


def waiting(window=INTERVAL):
    """The share of its time in which the trainer waits for data, without scores and checkpoints."""
    starved, busy = (
        rate(f"saccade_stage_{kind}_seconds_total", 'stage="train"', window) for kind in ("starved", "busy")
    )
    return f"sum by (instance, job) ({starved}) / sum by (instance, job) ({starved} + {busy}) >= 0"


def probe(window):
    return (
        f"{rate('saccade_probe_right_total', window=window)} / {rate('saccade_probe_samples_total', window=window)}"
        " >= 0"
    )


def named(value, text, colour=None):
    return {
        "type": "value",
        "options": {str(value): {"text": text, "index": int(value)} | ({"color": colour} if colour else {})},
    }


LIMITING = [named(0, "nothing yet", DARK)] + [
    named(number, stage, STAGE_COLOURS[stage]) for number, stage in enumerate(STAGES, 1)
]
COLLAPSED = [named(0, "no", BLUE), named(1, "collapsed", RED)]
FIRING = [named(1, "fires", RED)]


def target(query, legend, **more):
    return {"datasource": SOURCE, "editorMode": "code", "expr": query, "legendFormat": legend, "range": True} | more


def override(name, *properties, matcher="byName"):
    return {
        "matcher": {"id": matcher, "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }


def coloured(colours):
    """Overrides by which series of these names get these colours."""
    return [override(name, ("color", {"mode": "fixed", "fixedColor": colour})) for name, colour in colours.items()]


def steps(*bounds):
    """Thresholds from pairs of a lower bound, None for the first, and a colour."""
    return {"mode": "absolute", "steps": [{"value": bound, "color": colour} for bound, colour in bounds]}


def panel(kind, title, description, targets, defaults, options, overrides=()):
    for number, one in enumerate(targets):
        one["refId"] = chr(ord("A") + number)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
    }


def lines(
    title,
    description,
    targets,
    unit="short",
    *,
    low=0,
    high=None,
    log=False,
    stacked=False,
    colours=None,
    legend="list",
    overrides=(),
    decimals=None,
    palette=None,
    dashed=False,
):
    """Values over time. `stacked` fills the areas and puts one on the other."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 0 if stacked else 2,
        "lineStyle": {"fill": "dash", "dash": [6, 6]} if dashed else {"fill": "solid"},
        "fillOpacity": 85 if stacked else 0,
        "showPoints": "never",
        "spanNulls": 60000,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
    }
    defaults = {"unit": unit, "color": {"mode": palette or "palette-classic"}, "custom": custom}
    if not log:
        defaults |= {key: bound for key, bound in (("min", low), ("max", high)) if bound is not None}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "legend": {
            "displayMode": legend,
            "placement": "right" if legend == "table" else "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "mean"] if legend == "table" else [],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, description, targets, defaults, options, [*coloured(colours or {}), *overrides])


def stat(title, description, query, unit="short", *, mappings=(), thresholds=None, decimals=None, empty="none yet"):
    """One number, and behind it how it came about."""
    defaults = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": thresholds or steps((None, SKY)),
        "mappings": list(mappings),
        "noValue": empty,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "colorMode": "value",
        "graphMode": "none" if mappings else "area",
        "justifyMode": "center",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
        "wideLayout": True,
    }
    return panel("stat", title, description, [target(query, "")], defaults, options)


def states(title, description, targets, mappings, *, empty="nothing yet", rows=0.8):
    """Named states over time, a row for each series."""
    defaults = {
        "color": {"mode": "fixed", "fixedColor": DARK},
        "custom": {"lineWidth": 0, "fillOpacity": 90, "insertNulls": 60000},
        "mappings": list(mappings),
        "noValue": empty,
    }
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": rows,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, description, targets, defaults, options)


def table(title, description, columns, hidden, links=()):
    """Columns are (name, query, unit, properties); rows come of labels that all queries share."""
    targets = [target(query, "", instant=True, range=False, format="table") for _, query, _, _ in columns]
    made = panel(
        "table",
        title,
        description,
        targets,
        {
            "color": {"mode": "thresholds"},
            "thresholds": steps((None, SKY)),
            "custom": {"align": "left", "cellOptions": {"type": "auto"}, "filterable": False},
            "noValue": "no run",
        },
        {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "countRows": False}},
    )
    letters = [one["refId"] for one in targets]
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {name: True for name in hidden},
                "indexByName": (
                    {"run": 0, "instance": 1} | {f"Value #{letter}": number for number, letter in enumerate(letters, 2)}
                ),
                "renameByName": (
                    {"run": "Run", "instance": "Instance"}
                    | {f"Value #{letter}": name for letter, (name, *_) in zip(letters, columns, strict=True)}
                ),
            },
        },
    ]
    made["fieldConfig"]["overrides"] = [
        override("Run", ("links", list(links)), ("custom.width", 140)),
        override("Instance", ("custom.width", 140)),
        # Thirteen columns on a screen of 1440 pixels.
        *[override(name, ("unit", unit), ("custom.width", 96), *properties) for name, _, unit, properties in columns],
    ]
    return made


def heading(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def placed(rows):
    """Puts panels on the page: each row is a heading, or (height, [(width, panel), ...])."""
    panels, y = [], 0
    for row in rows:
        height, parts = (1, [(24, heading(row))]) if isinstance(row, str) else row
        x = 0
        for width, part in parts:
            panels.append({"id": len(panels) + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}} | part)
            x += width
        assert x <= 24, f"a row is {x} columns wide"
        y += height
    return panels


def variable(name, label, query, *, several):
    every = {"text": ["All"], "value": ["$__all"]} if several else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        # When the time range changes: a run that is over is found in its own time.
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "current": every,
        "hide": 0,
        "skipUrlSync": False,
    } | ({"allValue": ".*"} if several else {})


def dashboard(name, title, description, rows, *, several):
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "current": {},
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "skipUrlSync": False,
    }
    run = variable("run", "Run", "label_values(saccade_run_info, run)", several=several)
    instance = variable("instance", "Instance", 'label_values(saccade_run_info{run="$run"}, instance)', several=False)
    link = {
        "type": "dashboards",
        "tags": ["saccade"],
        "title": "",
        "asDropdown": False,
        "includeVars": not several,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    return {
        "uid": f"saccade-{name}",
        "title": title,
        "description": description,
        "tags": ["saccade"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m"]},
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "annotations": {"list": []},
        "links": [link],
        "templating": {"list": [source, run] if several else [source, run, instance]},
        "panels": placed(rows),
    }
