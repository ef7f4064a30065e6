"""All runs that are watched, one row each."""

from parts import (
    BLUE,
    COLLAPSED,
    FIRING,
    LIMITING,
    ORANGE,
    RED,
    SKY,
    dashboard,
    limiting,
    lines,
    of_each,
    probe,
    rate,
    states,
    steps,
    table,
    target,
    waiting,
)

NAME = "{{run}}, {{instance}}"
TEXT = ("custom.cellOptions", {"type": "color-text"})
LINK = {
    "title": "${__value.text}: where the time goes",
    "url": (
        "/d/saccade-throughput?var-datasource=${datasource}&var-run=${__data.fields.Run}"
        "&var-instance=${__data.fields.Instance}&${__url_time_range}"
    ),
}

COLUMNS = [
    (
        "Done",
        of_each("saccade_step / (saccade_steps_planned > 0)"),
        "percentunit",
        [
            ("min", 0),
            ("max", 1),
            ("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
            ("color", {"mode": "fixed", "fixedColor": BLUE}),
            ("decimals", 1),
            ("custom.width", 140),
        ],
    ),
    (
        "Time left",
        of_each(f"(saccade_steps_planned - saccade_step) / {rate('saccade_step_seconds_count', window='2m')} >= 0"),
        "s",
        [],
    ),
    ("Samples/s", of_each(rate("saccade_stage_samples_total", 'stage="train"', "1m")), "short", []),
    (
        "Data wait",
        of_each(waiting("1m")),
        "percentunit",
        [("decimals", 1), TEXT, ("thresholds", steps((None, SKY), (0.1, ORANGE), (0.3, RED)))],
    ),
    ("Limited by", of_each(limiting()), "short", [("mappings", LIMITING), TEXT]),
    ("Loss", of_each("saccade_loss"), "short", [("decimals", 4)]),
    ("Probe", of_each(probe("5m")), "percentunit", [("decimals", 1)]),
    ("kNN", of_each('sum by (instance, job) (saccade_score{score="knn"})'), "percentunit", [("decimals", 1)]),
    ("Collapse", of_each("max by (instance, job) (saccade_collapse)"), "short", [("mappings", COLLAPSED), TEXT]),
    (
        "Checkpoint",
        of_each("time() - (saccade_checkpoint_time_seconds > 0)"),
        "s",
        [TEXT, ("thresholds", steps((None, SKY), (3600, ORANGE)))],
    ),
    (
        "Disk spare",
        of_each("saccade_disk_free_bytes - saccade_disk_needed_bytes"),
        "bytes",
        [TEXT, ("thresholds", steps((None, RED), (2e9, SKY)))],
    ),
]

RUNS = (
    7,
    [
        (
            24,
            table(
                "Runs now",
                "One row a run. Orange and red want a look: a click on the name opens where its time goes. Checkpoint"
                " is the age of the newest one. A run that should be here and is not: see the alert"
                " SaccadeTrainerGone.",
                COLUMNS,
                ["Time", "job", "__name__", "stage"],
                [LINK],
            ),
        )
    ],
)

STATE = (
    7,
    [
        (
            12,
            states(
                "Limited by",
                "Which stage limits each run. It should be train. A run limited by another stage has an idle device: "
                "open its throughput, and see the tuning guide in dashboards/README.md.",
                [target(of_each(limiting()), NAME)],
                LIMITING,
            ),
        ),
        (
            12,
            states(
                "Alerts",
                "Which alert fired when; no row is best. What each means and what to do is in dashboards/README.md. It "
                "needs the rules of dashboards/rules in this Prometheus.",
                [
                    target(
                        'max by (alertname, instance) (ALERTS{alertstate="firing", alertname=~"Saccade.+"})',
                        "{{alertname}}, {{instance}}",
                    )
                ],
                FIRING,
                empty="no alert fires",
            ),
        ),
    ],
)

PACE = (
    8,
    [
        (
            12,
            lines(
                "Samples per second",
                "Trained samples of each run. A fall by a fifth or more: look at what limits, and at who else "
                "uses the machine. Gaps are scores and checkpoints.",
                [target(of_each(rate("saccade_stage_samples_total", 'stage="train"')), NAME)],
            ),
        ),
        (
            12,
            lines(
                "Waits for data",
                "Share of its time in which each trainer waits for a batch. Above 10 % the device idles: raise "
                "stream.workers or stream.reads, or decode the shards once.",
                [target(of_each(waiting()), NAME)],
                "percentunit",
            ),
        ),
    ],
)

LEARNING = (
    8,
    [
        (
            8,
            lines(
                "Loss",
                "Comparable only between runs of one objective. A lower loss need not be better: compare the probe. One"
                " that rises to twice its least: open the Learning dashboard.",
                [target(of_each("saccade_loss > 0"), NAME)],
                log=True,
                decimals=2,
            ),
        ),
        (
            8,
            lines(
                "Online probe, accuracy",
                "Comparable between runs on the same shards. A run that lies below the others for long may "
                "be stopped. Level from the start: see whether its features collapse.",
                [target(of_each(probe("5m")), NAME)],
                "percentunit",
            ),
        ),
        (
            8,
            lines(
                "kNN on the validation shards",
                "Steps at each score. A run below the others after as many steps learns less: compare "
                "their settings. Empty: the pipeline has no [score], or its first one is to come.",
                [target(of_each('sum by (instance, job) (saccade_score{score="knn"})'), NAME)],
                "percentunit",
            ),
        ),
    ],
)

DASHBOARD = dashboard(
    "overview",
    "Saccade: overview",
    "All runs that are watched, one row each.",
    [RUNS, STATE, "How fast?", PACE, "Do they learn?", LEARNING],
    several=True,
)
