"""The page of `saccade view` and its server as check-view.py uses them: plain HTTP, a browser, comparisons."""

import array
import functools
import http.client
import itertools
import json
import math
import re
import time
from urllib.parse import urlsplit

from playwright.sync_api import expect

PATIENCE = 10_000  # milliseconds for what the page does at once
DRAWN_APART = 1e-6
NOBODY = "999999999"
# What is no error: answers that are wanted here, requests that the page ends, and what the console says of either.
EXPECTED = re.compile(
    rf"503 /api/neighbours/|500 /api/neighbours/|422 /api/upload|404 /api/\w+/{NOBODY}|net::ERR_ABORTED|Failed to load"
)


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def close(ours, theirs, most, message):
    apart = [abs(a - b) for a, b in itertools.zip_longest(ours, theirs, fillvalue=math.inf)]
    check(all(one <= most for one in apart), f"{message}: {max(apart):.2e} apart, at most {most:.0e}")


def mean(maps):
    return [sum(values) / len(maps) for values in zip(*maps)]


class Server:
    """Plain HTTP, without a browser."""

    def __init__(self, url):
        self.url, self.host = url.rstrip("/"), urlsplit(url).netloc

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request(method, path, body, {"Host": self.host, **headers}, encode_chunked=True)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Who has answered already need not read on.
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    def get(self, path):
        status, _, body = self.ask("GET", path)
        check(status == 200, f"GET {path}: {status} in place of 200: {body[:200]}")
        return body

    def json(self, path):
        return json.loads(self.get(path))

    def ids(self, count):
        return [sample["id"] for sample in self.json(f"/api/samples?count={count}")["samples"]]

    @functools.lru_cache(256)
    def rows(self, path, places):
        """Matrices of `places` rows, one after another."""
        numbers = array.array("f", self.get(path))
        check(numbers and len(numbers) % places**2 == 0, f"{path}: {len(numbers)} numbers, no maps of {places} patches")
        return [list(numbers[start:start + places]) for start in range(0, len(numbers), places)]

    def maps(self, path, run, patch, column=False):
        """The map of each head, as the page must draw it."""
        rows, places = self.rows(path, run["grid"] ** 2), run["grid"] ** 2
        heads = [rows[start:start + places] for start in range(0, len(rows), places)]
        if patch is None:
            return [mean(head) for head in heads]
        return [[row[patch] for row in head] if column else head[patch] for head in heads]


class View:
    """The page as somebody uses it."""

    def __init__(self, browser, server, screenshots=None, **context):
        self.browser, self.server, self.screenshots, self.wrong = browser, server, screenshots, []
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda said: said.type == "error" and self.note(said.text))
        self.page.on("pageerror", lambda error: self.note(str(error)))
        self.page.on("requestfailed", lambda asked: self.note(f"{asked.failure} {asked.url}"))
        self.page.on("response", lambda one: one.status >= 400 and self.note(f"{one.status} {urlsplit(one.url).path}"))

    def note(self, what):
        self.wrong += [] if EXPECTED.match(what) else [what]

    def clean(self, when):
        check(not self.wrong, f"errors in the browser {when}: " + "; ".join(self.wrong))

    def open(self, address=""):
        self.page.goto(f"{self.server.url}/{address}")
        self.settled()
        self.run = self.page.evaluate("saccade.run")
        return self

    def picture(self, name):
        if self.screenshots:
            self.page.screenshot(path=f"{self.screenshots}/{name}.png", full_page=True)

    def by(self, name):
        return self.page.get_by_test_id(name)

    def text(self, name):
        return self.by(name).text_content().replace("−", "-")

    def listed(self, pattern):
        expect(self.by("page"), "chooser.js: the list of samples").to_have_text(re.compile(pattern))

    def settled(self):
        expect(self.by("stage"), "app.js: the map is not drawn").to_have_attribute("aria-busy", "false")

    def until(self, condition, message):
        """For what is seen in no element: asks again until it holds."""
        end = time.monotonic() + PATIENCE / 1000
        while not condition():
            check(time.monotonic() < end, message)
            self.page.wait_for_timeout(20)

    def reaches(self, what, **expected):
        self.until(lambda: expected.items() <= self.state.items(), f"{what}: not {expected}, state {self.state}")
        self.settled()

    state = property(lambda self: self.page.evaluate("saccade.state"))
    map = property(lambda self: self.page.evaluate("Array.from(saccade.map() ?? [])"))

    def pixels(self, canvas=None):
        """The brightness of each pixel of a canvas, the overlay unless another is named."""
        colours = (canvas or self.by("overlay")).evaluate("""canvas =>
            [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]""")
        return [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in zip(*(colours[part::4] for part in range(3)))]

    def place(self, patch):
        box, grid = self.by("stage").bounding_box(), self.run["grid"]
        place = lambda at, side: (at + 0.5) * side / grid * self.run["covered"] / self.run["side"]
        return {"x": place(patch % grid, box["width"]), "y": place(patch // grid, box["height"])}

    def click(self, patch):
        self.by("stage").click(position=self.place(patch))
        self.reaches("stage.js: after a click on a patch", patch=patch)

    def choose(self, **radios):
        for group, value in radios.items():
            self.by(group).locator(f'input[value="{value}"]').check()
            self.reaches(f"app.js: after a click on {value}", **{group: value})

    def select(self, **lists):
        for name, value in lists.items():
            self.by(name).select_option(value)
            self.settled()

    def press(self, key, **expected):
        self.page.keyboard.press(key)
        self.reaches(f"keys.js: after the key {key}", **expected)

    def drops(self, name, content):
        """A file dropped on the page: bytes, or so many zeros."""
        self.page.evaluate("""([name, content]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
            document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
        }""", [name, content])

    def drawn(self, values, what):
        close(self.map, values, DRAWN_APART, f"maps.js: the drawn map is not what the server sends, {what}")
        self.painted(self.pixels(), values, what)

    def painted(self, pixels, values, what):
        check(len(pixels) == len(values), f"{what}: {len(pixels)} pixels are drawn, needs {len(values)}")
        brightest, greatest = max(pixels), values.index(max(values))
        check(pixels[greatest] == brightest, f"colours.js: the brightest patch is not {greatest}, {what}")
