"""Uses the page of `saccade view` in a real browser, and compares what it draws with what the server sends.

Called by check-view. Every deviation ends it with a message that says what to look at.
"""

import json
import math
import re
import sys
import time
from urllib.parse import urlsplit

from playwright.sync_api import Error, expect, sync_playwright

from check_view_tools import DRAWN_APART, NOBODY, PATIENCE, Server, View, check, close, mean

CHROMIUM = "/usr/bin/chromium"
ENCODING = 120_000  # milliseconds until all training samples are encoded
SUMS_APART = 1e-4  # of the entries of a row, and of an entropy
CONTRAST = 4.5  # WCAG 2.2, 1.4.3
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
# Claims to be 60,000 pixels a side.
HUGE_PNG = bytes.fromhex("89504e470d0a1a0a 0000000d49484452 0000ea600000ea60 0802000000 0fb0e215")


def opens(view):
    """the page opens without errors, and shows the run"""
    status, headers, _ = view.server.ask("GET", "/")
    said = {"Content-Security-Policy": "default-src 'self'", "Cross-Origin-Resource-Policy": "same-origin"}
    for name, needed in said.items():
        check(status == 200 and needed in headers.get(name, ""), f"GET /: {status}, {name}: '{headers.get(name)}'")
    view.open()
    run, [first] = view.server.json("/api/run"), view.server.ids(1)
    expect(view.by("run")).to_contain_text(run["encoder"])
    view.reaches("app.js: the first sample is not shown", image=first)
    picture = [view.by("picture").evaluate(f"one => one.{side}") for side in ("width", "height")]
    check(picture == [run["side"]] * 2, f"/api/image/{first}: {picture} pixels, needs {run['side']} a side")


def chooses(view):
    """an image is chosen by class, by key and by page"""
    label, everything = view.run["labels"][-1], rf"of {view.run['samples']:,}$"
    fitting = view.server.json(f"/api/samples?label={label['label']}&count=24")
    check(fitting["total"] == label["samples"], f"/api/samples: {fitting['total']} samples of label {label}")
    view.by("class").select_option(str(label["label"]))
    view.listed(rf"of {label['samples']:,}$")
    buttons, sample = view.by("thumbs").locator("button"), fitting["samples"][-1]
    shown = buttons.evaluate_all("all => all.map((one) => one.dataset.id)")
    check(shown == [one["id"] for one in fitting["samples"]], f"chooser.js: of label {label} the page shows {shown}")
    buttons.last.click()
    view.reaches("chooser.js: after a click on a thumbnail", image=sample["id"])
    expect(view.by("title")).to_have_text(f"{sample['key']}, {label['name'] or 'label ' + str(label['label'])}")
    view.by("class").select_option("")
    view.listed(everything)
    if view.run["samples"] > 24:
        view.by("page-on").click()
        view.listed("^25 to")
    view.by("key").fill(sample["key"])
    expect(view.by("thumbs").locator(f'[data-id="{sample["id"]}"]')).to_have_attribute("aria-pressed", "true")
    for key, pattern in (("no key has this", "no sample fits"), ("", everything)):
        view.by("key").fill(key)
        view.listed(pattern)


def draws_attention(view):
    """rows, columns, means and single heads are drawn as the server sends them"""
    run, image = view.run, view.state["image"]
    row, heads = run["grid"] // 2, run["heads"]
    for layer in sorted({0, run["layers"] - 1}):
        view.by("layer").fill(str(layer + 1))
        view.reaches("app.js: after the slider", layer=layer)
        view.press("Escape", patch=None)
        for patch in (None, row * run["grid"] + 1):
            if patch is not None:
                view.click(patch)
            for name in ("to", "by"):
                maps = view.server.maps(f"/api/attention/{image}/{layer}", run, patch, name == "by")
                view.choose(map=name)
                for head in ["mean", *range(heads)]:
                    before, what = view.pixels(), f"image {image}, layer {layer}, head {head}, patch {patch}, '{name}'"
                    view.choose(head=head)
                    view.drawn(mean(maps) if head == "mean" else maps[head], what)
                    check(head in ("mean", heads - 1) or view.pixels() != before, f"the canvas has not changed, {what}")
    said = f"{run['layer_name']} {run['layers']}, head {heads} of {heads}: patch row {row + 1}, column 2 is attended by"
    expect(view.by("caption")).to_contain_text(said)


def scales(view):
    """the colour bar has the map's numbers, and the value under the pointer is told"""
    small = lambda value: f"{value:.2e}".replace("e-0", "e-") if value else "0"
    number = lambda value: f"{value:.4f}" if abs(value) >= 1e-3 else small(value)
    last = view.run["grid"] - 1
    view.click(0)
    values, before = view.map, view.pixels()
    ends, said = [number(min(values)), number(max(values))], [view.text("bar-least"), view.text("bar-most")]
    check(said == ends, f"stage.js: the colour bar goes from {said[0]} to {said[1]}, needs {ends}")
    view.by("stage").hover(position=view.place(last))
    under, needed = view.text("value"), f"patch row 1, column {last + 1}: {number(values[last])}"
    check(under.startswith(needed), f"stage.js: under the pointer: '{under}', needs '{needed}'")
    view.select(scale="zero")
    check(view.text("bar-least") == "0", f"maps.js: a scale from 0 begins at {view.text('bar-least')}")
    for colours in ("magma", "grey"):
        view.select(colours=colours)
        view.drawn(values, f"in {colours}")
    check(view.pixels() != before, "colours.js: grey from 0 looks like viridis")
    view.select(scale="own", colours="viridis")


def covers_its_pixels(view):
    """the map lies over the pixels that its places stand for, and nowhere else"""
    run, stage, overlay = view.run, view.by("stage").bounding_box(), view.by("overlay").bounding_box()
    share = run["covered"] / run["side"]
    for side, corner in (("width", "x"), ("height", "y")):
        close([overlay[side] / stage[side]], [share], 0.01, f"stage.js: the {side} of the map beside the image's")
        close([overlay[corner]], [stage[corner]], 1.0, "stage.js: the map's corner")
    said = view.text("caption")
    check(("stands for the last" in said) == (share < 1), f"maps.js: {run['covered']} pixels are covered; '{said}'")
    if share < 1:
        view.click(0)
        view.by("stage").click(position={side: stage[box] - 2 for side, box in (("x", "width"), ("y", "height"))})
        view.reaches("stage.js: after a click beyond the map", patch=0)


def shows_all_heads(view):
    """all heads stand side by side, and every layer and head in the overview"""
    run, state = view.run, view.state
    ours = lambda layer: view.server.maps(f"/api/attention/{state['image']}/{layer}", run, state["patch"])
    view.choose(map="to", head="all")
    buttons, tiles = view.by("multiples").locator("button"), view.by("overview").locator("button")
    expect(buttons).to_have_count(run["heads"])
    expect(view.by("stage")).to_be_hidden()
    close(view.map, sum(ours(state["layer"]), []), DRAWN_APART, "stage.js: the maps of all heads")
    buttons.last.click()
    view.reaches("stage.js: after a click on the last of all heads", head=run["heads"] - 1)
    expect(view.by("overview"), "panels.js: the overview is not drawn").to_have_attribute("data-drawn", state["image"])
    for layer, head in ((0, 0), (run["layers"] - 1, run["heads"] - 1)):
        tile = tiles.nth(layer * run["heads"] + head)
        view.painted(view.pixels(tile.locator("canvas")), ours(layer)[head], f"overview, layer {layer}, head {head}")
        tile.click()
        view.reaches("panels.js: after a click on a tile of the overview", layer=layer, head=head)


def tells_entropy(view):
    """entropies and perplexities are those of the attention's bytes"""
    run, image = view.run, view.state["image"]
    places, cells = run["grid"] ** 2, view.by("entropy").locator("button")
    expect(cells).to_have_count(run["layers"] * run["heads"])
    for at in range(run["layers"] * run["heads"]):
        layer, head = divmod(at, run["heads"])
        rows = view.server.rows(f"/api/attention/{image}/{layer}", places)[head * places:(head + 1) * places]
        what = f"/api/attention/{image}/{layer}, head {head}"
        close(map(sum, rows), [1.0] * places, SUMS_APART, f"{what}: the sums of rows")
        entropy = -sum(p * math.log(p) for row in rows for p in row if p > 0) / places
        said = [float(cells.nth(at).locator(f"[data-{name}]").text_content()) for name in ("entropy", "perplexity")]
        close(said[:1], [entropy], SUMS_APART, f"{what}: the table's entropy beside -sum p ln p")
        close(said[1:], [math.exp(entropy)], 0.02, f"{what}: the table's perplexity")
    cells.last.click()
    view.reaches("panels.js: after a click on the last entropy", layer=run["layers"] - 1, head=run["heads"] - 1)


def rolls_out(view):
    """rollout and similarity are drawn, and mean what they say"""
    run, image, layer = view.run, view.state["image"], view.state["layer"]
    places, like, rollout = run["grid"] ** 2, f"/api/similarity/{image}", f"/api/rollout/{image}/{layer}"
    view.click(places - 2)
    if run["layers"]:
        close(map(sum, view.server.rows(rollout, places)), [1.0] * places, SUMS_APART, f"{rollout}: the sums of rows")
        view.choose(map="rollout")
        view.drawn(view.server.maps(rollout, run, places - 2)[0], rollout)
        view.choose(map="similarity")
    view.drawn(view.server.maps(like, run, places - 2)[0], like)
    view.press("Escape", patch=None)
    view.drawn(view.server.maps(like, run, None)[0], f"{like}, mean over all places")


def draws_energy(view):
    """the energy is drawn where there is one"""
    energy, dots = view.server.json(f"/api/look/{view.state['image']}")["energy"], view.by("energy").locator("circle")
    if energy is None:
        return expect(view.by("energy")).to_be_hidden()
    check(len(energy) == view.run["layers"] + 1, f"/api/look: {len(energy)} energies, needs {view.run['layers'] + 1}")
    heights = dots.evaluate_all("all => all.map((one) => -one.getAttribute('cy'))")
    order = lambda values: sorted(range(len(values)), key=values.__getitem__)
    check(order(heights) == order(energy), f"panels.js: heights {heights} of energies {energy}")


def finds_neighbours(view):
    """the nearest training images appear, those of the same label marked"""
    items = view.by("near").locator("li")
    if not view.run["neighbours"]:
        return expect(view.by("near")).to_be_hidden()
    expect(items, "/api/neighbours: no neighbours came").not_to_have_count(0, timeout=ENCODING)
    look = view.server.json(f"/api/look/{view.state['image']}")
    near = view.server.json(f"/api/neighbours/{look['id']}?count=8")["neighbours"]
    check(near == sorted(near, key=lambda one: -one["similarity"]), f"/api/neighbours: not the nearest first: {near}")
    expect(items).to_have_count(len(near))
    for item, one in zip(items.all(), near):
        same, text = one["label"] is not None and one["label"] == look["label"], item.text_content()
        marks = ["same" in (item.get_attribute("class") or ""), "✓" in text, "same label" in text]
        check(marks == [same] * 3, f"panels.js: a neighbour of label {one['label']} is marked wrongly: '{text}'")
        check(f"{one['similarity']:.3f}" in text, f"panels.js: similarity {one['similarity']} is said as '{text}'")


def follows_neighbours(view):
    """a neighbour is shown like any other image, by click or by key, and there is a way back"""
    if not view.run["neighbours"]:
        return
    run, first, title = view.run, view.state["image"], view.by("title").text_content()
    near, back = view.by("near").locator("button"), view.by("back")
    names = near.evaluate_all("all => all.map((one) => one.dataset.id)")
    expect(back).to_be_hidden()
    view.choose(map="similarity")

    def is_shown(image, what):
        view.reaches(f"app.js: {what}", image=image)
        look = view.server.json(f"/api/look/{image}")
        label = next((one["name"] for one in run["labels"] if one["label"] == look["label"]), None)
        named = "no label" if look["label"] is None else label or f"label {look['label']}"
        ending = " (training sample)" if image.startswith("t") else ""
        said = look["key"] if look["label"] is None else f"{look['key']}, {named}"
        expect(view.by("title"), what).to_have_text(said + ending)
        values = view.server.maps(f"/api/similarity/{image}", run, view.state["patch"])[0]
        view.drawn(values, f"of {image}, {what}")

    near.first.click()
    is_shown(names[0], "after a click on a neighbour")
    expect(back).to_have_text(f"← Back to {title}")
    expect(view.by("title"), "app.js: after a click on a neighbour").to_be_focused()
    expect(view.by("title"), "app.js: what is shown is out of sight").to_be_in_viewport()
    for name, size in (("phone", PHONE), ("desktop", DESKTOP)):
        view.page.set_viewport_size(size)
        expect(back, f"style.css: the way back on a {name}").to_be_visible()
        width = view.page.evaluate("document.documentElement.scrollWidth")
        check(width <= size["width"], f"style.css: with a way back, the page is {width} pixels wide on a {name}")
        view.picture(f"neighbour-{name}-{run['kind']}")
    expect(near.first, "panels.js: a neighbour's own neighbours").not_to_have_attribute("data-id", names[0])
    second = near.nth(1).get_attribute("data-id")
    near.nth(1).focus()
    view.page.keyboard.press("Enter")
    is_shown(second, "after Enter on a neighbour")
    view.press("b", image=names[0])
    back.click()
    is_shown(first, "after the way back")
    expect(back).to_be_hidden()
    view.press("b", image=first)
    view.page.go_forward()
    is_shown(names[0], "after the browser's way forward")
    view.page.reload()
    view.settled()
    expect(back, "app.js: after the page was loaded again").to_have_text(f"← Back to {title}")
    back.click()
    is_shown(first, "after the way back from a page that was loaded again")


def says_why_there_are_none(view):
    """why there are no neighbours is said in words"""
    if not view.run["neighbours"]:
        return
    why = "the training samples cannot be encoded"
    answers = [(500, {"error": why}, f"There are none: {why}."), (200, {"neighbours": []}, "There is no training")]
    for status, answer, said in answers:
        other = View(view.browser, view.server)
        other.page.route("**/api/neighbours/**", lambda route: route.fulfill(status=status, json=answer))
        other.open()
        expect(other.by("neighbours-wait"), "panels.js").to_contain_text(said)
        expect(other.by("near").locator("li")).to_have_count(0)
        other.clean("where there are no neighbours")


def takes_uploads(view):
    """a picture of one's own is shown; what is none is refused in words"""
    name, png = "<b>own</b> ä.png", view.server.get(f"/api/image/{view.state['image']}")
    file = lambda name, content: {"name": name, "mimeType": "image/png", "buffer": content}
    view.choose(map="similarity")
    view.by("file").set_input_files(file(name, png))
    expect(view.by("title"), "chooser.js: the upload is not shown").to_have_text(name)
    view.settled()
    own, patch = view.state["image"], view.state["patch"]
    check(own[0] == "u", f"/api/upload: the id is {own}, needs u and a number")
    view.drawn(view.server.maps(f"/api/similarity/{own}", view.run, patch)[0], "of an upload")
    view.by("file").set_input_files(file("words.png", b"no image at all"))
    expect(view.by("upload-error")).to_contain_text("words.png: ")
    view.drops("large.png", view.run["upload_bytes"] + 1)
    expect(view.by("upload-error")).to_contain_text("large.png is larger than")
    view.drops("dropped.png", list(png))
    expect(view.by("title"), "chooser.js: a dropped file is not shown").to_have_text("dropped.png")


def obeys_keys(view):
    """the keyboard does everything"""
    run, grid, ids = view.run, view.run["grid"], view.server.ids(3)
    view.open(f"#image={ids[0]}")
    middle, last, second = grid // 2 * grid + grid // 2, run["layers"] - 1, 1 if run["heads"] > 1 else "mean"
    arrows = ("Left", 0), ("Left", -1), ("Up", -1 - grid), ("Right", -grid), ("Down", 0)
    presses = [(f"Arrow{arrow}", "patch", middle + away) for arrow, away in arrows]
    presses += [("n", "image", ids[1]), ("n", "image", ids[2]), ("p", "image", ids[1])]
    presses += [("+", "opacity", 70), ("-", "opacity", 60)]
    if run["layers"]:
        presses += [("[", "layer", max(0, last - 1)), ("]", "layer", last), ("]", "layer", last), ("h", "head", 0)]
        presses += [("h", "head", second), ("Shift+H", "head", 0), ("a", "head", "all")]
        presses += [("a", "head", "mean"), *(("m", "map", name) for name in ("by", "rollout", "similarity", "to"))]
    for key, name, value in [*presses, ("?", "patch", middle)]:
        view.press(key, **{name: value})
    expect(view.by("help")).to_be_visible()
    view.press("Escape", patch=middle)
    expect(view.by("help")).to_be_hidden()
    view.press("Escape", patch=None)
    view.by("key").focus()
    view.page.keyboard.type("n+")
    view.reaches("keys.js: letters of a search were taken for keys", image=ids[1], opacity=60)


def is_named_and_focused(view):
    """every control has a name, and shows that it is focused"""
    view.page.reload()
    view.settled()
    run, met, name, tag = view.run, {}, "", ""
    if run["neighbours"]:
        expect(view.by("near").locator("button"), "panels.js: no neighbours").not_to_have_count(0)
    while tag != "BODY" and len(met) < 100:
        met[name] = True
        view.page.keyboard.press("Tab")
        name, tag, outline, said = view.page.evaluate("""() => {
            const one = document.activeElement;
            const seen = one.matches(".segments input") ? one.nextElementSibling : one;
            const said = [one.ariaLabel, one.textContent, one.labels?.[0]?.textContent, one.querySelector("img")?.alt];
            const { outlineStyle } = getComputedStyle(seen);
            return [one.id || one.closest("[id]")?.id, one.tagName, outlineStyle, said.some((text) => text?.trim())];
        }""")
        check(outline != "none" or tag == "BODY", f"style.css: {name} does not show that it is focused")
        check(said, f"index.html: a control of {name} has no name")
    wanted = "skip help-open class key thumbs upload map stage colours scale opacity grid".split()
    wanted += ["near"] if run["neighbours"] else []
    check([name for name in met if name in wanted] == wanted, f"index.html: Tab goes by {list(met)}, needs {wanted}")


def loads_ahead(view):
    """what comes next is loaded ahead within a bound, and late answers are ignored"""
    run, ids = view.run, view.server.ids(24)[-9:]
    view.open(f"#image={ids[4]}")
    kind, end = ("attention", f"/{view.state['layer']}") if run["layers"] else ("similarity", "")
    answers = lambda: view.page.evaluate("saccade.answers")
    wanted = {f"/api/{each}" for at in (3, 5, 6) for each in (f"image/{ids[at]}", f"{kind}/{ids[at]}{end}")}
    view.until(lambda: wanted <= set(answers()["paths"]), f"app.js: not all is loaded ahead of {sorted(wanted)}")
    check(0 < answers()["bytes"] <= answers()["limit"], f"api.js: so many bytes are kept: {answers()}")
    held, late = [], f"/api/{kind}/{ids[8]}{end}"
    view.page.route(f"**{late}", lambda route: held.append(route))
    view.page.evaluate(f"location.hash = '#image={ids[8]}'")
    view.until(lambda: held, f"app.js: a link to image {ids[8]} asks for no map")
    view.page.keyboard.press("p")
    view.press("p", image=ids[6])
    for route in held:
        route.continue_()
    view.page.unroute(f"**{late}")
    view.page.evaluate("late => fetch(late).then((answer) => answer.arrayBuffer())", late)
    view.drawn(mean(view.server.maps(f"/api/{kind}/{ids[6]}{end}", run, None)), "after a late answer")


def reopens(view):
    """a link shows the same again; a spoilt one shows something"""
    view.click(3)
    if view.run["layers"]:
        view.choose(map="by", head=0)
    address, [first, second] = f"#{urlsplit(view.page.url).fragment}", view.server.ids(2)
    other = View(view.browser, view.server).open(address)
    check(other.state == view.state, f"app.js: {address} opens {other.state}, needs {view.state}")
    close(other.map, view.map, 0.0, f"app.js: the map of {address}, opened again")
    other.open("#image=zzz&layer=99&patch=-4&head=constructor&map=toString&opacity=x")
    other.reaches("app.js: after a spoilt link", image=first, patch=None, head="mean", opacity=60)
    other.press("n", image=second)
    check(f"image={second}" in other.page.url, f"app.js: the address {other.page.url} does not name image {second}")
    other.page.go_back()
    other.reaches("app.js: after the way back", image=first)
    other.open(f"#image={NOBODY}")
    expect(other.by("error"), "app.js: a link to no image is not explained").to_be_visible()
    check(other.map == [], "app.js: a link to no image leaves the map of another")
    other.clean("while links were followed")


def light(colour):
    # Relative luminance, WCAG 2.2.
    shares = [float(part) / (1 if colour.startswith("color(") else 255) for part in re.findall(r"[\d.]+", colour)[:3]]
    r, g, b = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def fits_screens(view):
    """a phone needs no sideways scrolling; light and dark are legible; no motion where none is wanted"""
    device = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "reduced_motion": "reduce"}
    for scheme in ("light", "dark"):
        phone = View(view.browser, view.server, view.screenshots, color_scheme=scheme, **device)
        phone.open(f"#{urlsplit(view.page.url).fragment}")
        phone.page.wait_for_load_state("networkidle")
        width = phone.page.evaluate("Math.max(innerWidth, document.documentElement.scrollWidth)")
        check(width <= PHONE["width"], f"style.css: the page is {width} pixels wide on a phone of {PHONE['width']}")
        moves = phone.by("overlay").evaluate("one => getComputedStyle(one).transitionDuration")
        check(moves == "0s", f"style.css: the map moves for {moves} where no motion is wanted")
        texts = phone.page.evaluate("""() => {
            const ground = (one) => {
                const colour = getComputedStyle(one).backgroundColor;
                return colour === "rgba(0, 0, 0, 0)" && one.parentElement ? ground(one.parentElement) : colour;
            };
            const speaks = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
                && one.checkVisibility() && !one.closest(":disabled, svg, .spoken");
            return [...document.querySelectorAll("body *")].filter(speaks)
                .map((one) => [ground(one), getComputedStyle(one).color, one.textContent.trim()]);
        }""")
        check((light(texts[0][0]) < 0.1) == (scheme == "dark"), f"style.css: {texts[0][0]} is the ground, not {scheme}")
        for ground, colour, text in texts:
            low, high = sorted((light(ground) + 0.05, light(colour) + 0.05))
            check(high / low >= CONTRAST, f"style.css: {scheme}: '{text[:40]}' has a contrast of {high / low:.2f}")
        phone.picture(f"phone-{scheme}-{view.run['kind']}")
        phone.clean("on a phone")


def keeps_strangers_out(view):
    """pages of other sites get nothing, but a link on them leads here"""
    server, [first] = view.server, view.server.ids(1)
    page = view.browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    body = f"""<a href="{server.url}/#image={first}">look</a><img src="{server.url}/api/image/{first}">
        <iframe src="{server.url}/"></iframe>"""
    elsewhere = f"http://localhost:{urlsplit(server.url).port}/elsewhere"
    page.route(elsewhere, lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(elsewhere)
    check(page.evaluate("document.querySelector('img').naturalWidth") == 0, "names.rs: another site shows an image")
    asks = "path => fetch(path, { mode: 'no-cors' }).then((one) => one.type, () => 'refused')"
    asked = page.evaluate(asks, f"{server.url}/api/run")
    check(asked == "refused", f"mod.rs: another site's request is answered ({asked})")
    framed = [frame for frame in page.frames[1:] if frame.locator("#run").count()]
    check(not framed, "mod.rs: another site has the page in a frame")
    page.get_by_text("look").click()
    expect(page.get_by_test_id("stage"), "a link elsewhere").to_have_attribute("aria-busy", "false")
    page.context.close()


def refuses(view):
    """bad requests are refused with a reason, and the server lives on"""
    server, run, [first] = view.server, view.run, view.server.ids(1)
    port, large, upload, end = urlsplit(server.url).port, bytes(run["upload_bytes"] + 1), "/api/upload", run["layers"]
    get = lambda status, *paths: [(status, "GET", path, None, {}) for path in paths]
    post = lambda status, *bodies, **headers: [(status, "POST", upload, body, headers) for body in bodies]
    known = lambda status, *hosts: [(status, "GET", "/api/run", None, {"Host": host}) for host in hosts]
    requests = [
        *get(404, *(f"/api/{what}/{NOBODY}" for what in ("image", "look", "similarity", "neighbours"))),
        *get(404, "/api/image/x", "/api/image/u9999", "/api/look/-1", f"/api/attention/{NOBODY}/0", "/api/nothing"),
        *get(404, f"/api/attention/{first}/{end}", f"/api/rollout/{first}/{end}"),
        *get(400, f"/api/attention/{first}/x", f"/api/attention/{first}/-1", f"/api/rollout/{first}/1.5"),
        *get(400, "/api/samples?from=-1"), *get(405, upload),
        *get(404, "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd"),
        *get(404, "/style.css/../../../../etc/passwd", "/api/image/..%2f..%2f..%2fetc%2fpasswd", "/Cargo.toml"),
        (405, "POST", "/api/run", b"", {}), (405, "DELETE", "/", None, {}), (405, "PUT", upload, b"", {}),
        # With its length, and without one, in chunks.
        *post(413, large), *post(413, iter([large]), **{"Transfer-Encoding": "chunked"}),
        *post(422, b"", b"no image", HUGE_PNG), *post(403, b"x", Origin="http://evil.example"),
        *known(403, f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "evil.example"),
        *known(200, f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"),
        *((403, "GET", "/api/run", None, {"Sec-Fetch-Site": site}) for site in ("cross-site", "same-site")),
        (200, "GET", "/api/run", None, {"Sec-Fetch-Site": "same-origin"}),
    ]
    for wanted, method, path, body, headers in requests:
        status, said, answer = server.ask(method, path, body, **headers)
        what = f"{method} {path} {headers or ''}"
        check(status == wanted, f"{what}: {status} in place of {wanted}: {answer[:200]!r}")
        check(b"root:" not in answer and b"[package]" not in answer, f"{what}: answered by a file")
        why = json.loads(answer).get("error") if "json" in said.get("Content-Type", "") else None
        check(wanted < 400 or (why and "\n" not in why), f"{what}: the reason is no line in JSON: {answer[:200]!r}")
    check(server.json("/api/run") == run, "after the bad requests the server is another")


def main(url, folder=None):
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = View(browser, Server(url), folder, viewport=DESKTOP, color_scheme="light")
        for part in (opens, chooses, draws_attention, scales, covers_its_pixels, shows_all_heads, tells_entropy,
                     rolls_out, draws_energy, finds_neighbours, follows_neighbours, says_why_there_are_none,
                     takes_uploads, obeys_keys, is_named_and_focused, loads_ahead, reopens, fits_screens,
                     keeps_strangers_out, refuses):
            if part in (draws_attention, shows_all_heads, tells_entropy) and view.run["layers"] == 0:
                continue
            began = time.monotonic()
            try:
                part(view)
                view.clean("so far")
            except (AssertionError, Error) as error:
                view.picture("failed")
                sys.exit(f"check-view: not so: {part.__doc__}\n{error}\nthe page was at {view.page.url}")
            print(f"{time.monotonic() - began:5.1f} s  {part.__doc__}", flush=True)
        view.picture(f"desktop-{view.run['kind']}")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
