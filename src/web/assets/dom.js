// Small helpers for building the page's elements.

export const $ = (id) => document.getElementById(id);

/** An element with properties, attributes (`aria-…`, `data-…`, `role`) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Says `text` in an element that is hidden while there is nothing to say. */
export function say(place, text) {
  place.textContent = text ?? "";
  place.hidden = !text;
}

/** A group of radio buttons that look like one row of buttons; `pairs` are `[value, text, spoken]`. */
export function segments(fieldset, pairs, chosen) {
  const legend = fieldset.querySelector("legend");
  const labels = pairs.map(([value, text, spoken]) => {
    const input = element("input", { type: "radio", name: fieldset.id, value });
    if (spoken) input.setAttribute("aria-label", spoken);
    return element("label", {}, input, element("span", { textContent: text }));
  });
  fieldset.replaceChildren(legend, ...labels);
  fieldset.addEventListener("change", (event) => chosen(event.target.value));
  // After a click the arrows are the map's; who came by the keyboard (`detail` is 0) chooses on with them.
  fieldset.addEventListener("click", (event) => event.detail > 0 && event.target.blur());
}

export function choose(fieldset, value) {
  for (const input of fieldset.querySelectorAll("input")) input.checked = input.value === String(value);
}

/** Whether so large an image is looked at pixel by pixel. */
export const isSmall = (side) => side < 128;
