// Says what the nearest point is, under a mouse or a finger. Points are too small to be met exactly; without this script
// their own titles speak.
"use strict";

const REACH = 24; // CSS pixels
const AWAY = 14;

const svg = document.querySelector(".plane svg");
const tip = document.querySelector(".tip");
const points = [...svg.querySelectorAll("circle")].map((circle) => {
    const title = circle.querySelector("title");
    const said = title.textContent;
    title.remove();
    return { x: circle.cx.baseVal.value, y: circle.cy.baseVal.value, said };
});
const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
ring.classList.add("ring");
ring.setAttribute("r", 7);

function nearest({ x, y }, reach) {
    let [found, least] = [null, reach ** 2];
    for (const point of points) {
        const away = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (away <= least) [found, least] = [point, away];
    }
    return found;
}

function hide() {
    tip.hidden = true;
    ring.remove();
}

function show(event) {
    const toPage = svg.getScreenCTM();
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(toPage.inverse());
    const point = nearest(place, REACH / toPage.a);
    if (!point) return hide();
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    svg.append(ring);
    tip.textContent = point.said;
    tip.hidden = false;
    // Beside the point, within the window.
    const { x, y } = new DOMPoint(point.x, point.y).matrixTransform(toPage);
    const { width, height } = tip.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    tip.style.left = `${Math.max(0, x + AWAY + width > clientWidth ? x - AWAY - width : x + AWAY)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - height / 2, clientHeight - height))}px`;
}

svg.addEventListener("pointermove", show);
svg.addEventListener("pointerdown", show);
svg.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && hide());
addEventListener("scroll", hide, { passive: true });
