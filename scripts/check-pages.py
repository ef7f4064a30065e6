"""Opens the pages that `saccade umap` and `saccade report` write in a real browser, without a network.

Called by check-view. Every deviation ends it with a message that says what to look at.
"""

import html
import re
import sys
from pathlib import Path

from playwright.sync_api import Error, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TEXT_CONTRAST, DOT_CONTRAST = 4.5, 1.5  # the first is WCAG 2.2, 1.4.3
TOGETHER = 0.2  # units of the drawing, below which either of two points may be said to be the nearest


def check(condition, message):
    if not condition:
        raise AssertionError(message)


# [ground, ink] as [red, green, blue], of texts and of the legend's dots: a canvas knows every way to write a colour.
COLOURS = """() => {
    const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colour) => {
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const ground = (one) => {
        const colour = getComputedStyle(one).backgroundColor;
        if (colour !== "rgba(0, 0, 0, 0)") return rgb(colour);
        // What the browser draws where a page says nothing.
        return one.parentElement ? ground(one.parentElement) : rgb(dark ? "#121212" : "#fff");
    };
    const speaks = (one) => one.checkVisibility() && !one.closest("svg")
        && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const texts = [...document.querySelectorAll("body *")].filter(speaks)
        .map((one) => [one.textContent.trim(), ground(one), rgb(getComputedStyle(one).color)]);
    const dots = [...document.querySelectorAll(".plane li")]
        .map((one) => [one.textContent, ground(one), rgb(getComputedStyle(one, "::before").backgroundColor)]);
    return { dark, ground: ground(document.body), texts, dots };
}"""


def light(channels):
    # Relative luminance, WCAG 2.2.
    shares = [part / 255 for part in channels]
    r, g, b = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def is_legible(page):
    found = page.evaluate(COLOURS)
    check((light(found["ground"]) < 0.1) == found["dark"], f"style.css: the ground is {found['ground']}")
    for most, what in ((TEXT_CONTRAST, "texts"), (DOT_CONTRAST, "dots")):
        for text, ground, colour in found[what]:
            low, high = sorted((light(ground) + 0.05, light(colour) + 0.05))
            check(high / low >= most, f"style.css: '{text[:40]}' ({what}) has a contrast of {high / low:.2f}")


def says_what_points_are(page, path):
    """what a point is shows beside it, under the mouse and under a finger, and goes with it"""
    pattern = r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>([^<]*)</title>'
    points = [(float(x), float(y), html.unescape(said)) for x, y, said in re.findall(pattern, path.read_text())]
    check(len(points) > 10, f"{path}: {len(points)} points that say what they are")
    tip, ring = page.locator(".tip"), page.locator(".ring")
    for x, y, _ in points[::len(points) // 7]:
        at = page.locator(".plane svg").evaluate(
            "(svg, at) => { const { x, y } = new DOMPoint(...at).matrixTransform(svg.getScreenCTM()); return [x, y]; }",
            [x, y])
        page.touchscreen.tap(*at) if page.viewport_size == PHONE else page.mouse.move(*at)
        wanted = {said for other_x, other_y, said in points if abs(other_x - x) + abs(other_y - y) < TOGETHER}
        expect(tip, "hover.js: nothing is said beside a point").to_be_visible()
        check(tip.text_content() in wanted, f"hover.js: '{tip.text_content()}' is said of {wanted}")
        box, size = tip.bounding_box(), page.viewport_size
        inside = 0 <= box["x"] and box["x"] + box["width"] <= size["width"] and 0 <= box["y"]
        check(inside and box["y"] + box["height"] <= size["height"], f"hover.js: what is said leaves the window: {box}")
        expect(ring, "hover.js: the point is not marked").to_have_count(1)
    is_legible(page)
    if page.viewport_size != PHONE:
        page.mouse.move(1, 1)
        expect(tip, "hover.js: what was said stays").to_be_hidden()
        expect(ring).to_have_count(0)


def shows_all(page, _):
    """every picture is drawn, and every link leads somewhere"""
    is_legible(page)
    empty = page.evaluate("[...document.images].filter((one) => !one.naturalWidth).map((one) => one.alt)")
    check(len(page.query_selector_all("img")) == 3 and not empty, f"the report's pictures: {empty} are empty")
    check(page.locator("polyline").count() > 5, "the report has no curves")
    lost = page.evaluate("[...document.links].map((one) => one.hash).filter((hash) => !document.querySelector(hash))")
    check(not lost, f"the report's links lead nowhere: {lost}")


def main(plane, report, folder=None):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for path, part in ((Path(plane), says_what_points_are), (Path(report), shows_all)):
            for scheme, size in ((scheme, size) for scheme in ("light", "dark") for size in (DESKTOP, PHONE)):
                wrong, address, small = [], path.resolve().as_uri(), size == PHONE
                context = browser.new_context(
                    viewport=size, color_scheme=scheme, is_mobile=small, has_touch=small, offline=True)
                page = context.new_page()
                page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
                page.on("pageerror", lambda error: wrong.append(str(error)))
                page.on("request", lambda asked: asked.url.startswith(("data:", address)) or wrong.append(asked.url))
                try:
                    page.goto(address)
                    width = page.evaluate("document.documentElement.scrollWidth")
                    check(width <= size["width"], f"style.css: {width} pixels wide in a window of {size['width']}")
                    part(page, path)
                    check(not wrong, f"errors or requests in the browser: {'; '.join(wrong)}")
                except (AssertionError, Error) as error:
                    sys.exit(f"check-pages: not so: {part.__doc__}\n{error}\n{path.name}, {scheme}, {size}")
                if folder:
                    name = f"{path.stem}-{'phone' if small else 'desktop'}-{scheme}"
                    page.screenshot(path=f"{folder}/{name}.png", full_page=True)
                context.close()
            print(f"{path.name}: {part.__doc__}", flush=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
