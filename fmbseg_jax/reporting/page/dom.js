"use strict";
const REPORT = JSON.parse(document.getElementById("report").textContent);
const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children; strings become text, so nothing that was read is ever HTML.
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else if (name.startsWith("aria-")) node.setAttribute(name, String(value));
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const byId = (id) => document.getElementById(id);
const figure = (value) => (value === null || value === undefined ? "–" : value.toFixed(3).replace(/^0/, ""));
const percent = (share) => (share === null ? "–" : share > 0 && share < 0.01 ? "<1\u00a0%" : `${Math.round(share * 100)}\u00a0%`);
const className = (index) => (REPORT.classes[index] ? REPORT.classes[index].name : "no class");
const colourOf = (index) => (REPORT.classes[index] ? REPORT.classes[index].colour : "transparent");
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function swatch(index) {
  return el("i", index >= 0 ? { style: `background:${colourOf(index)}` } : { class: "ignored" });
}
function section(id, title, ...children) {
  return el("section", { id }, el("h2", {}, title), ...children);
}
// Buttons of which one is pressed; `pick` is called with its index.
function switcher(names, pick, label) {
  const buttons = names.map((name, i) => el("button", { type: "button", "aria-pressed": i === 0, onclick: () => choose(i) }, name));
  function choose(at) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === at));
    pick(at);
  }
  return names.length > 1 ? el("div", { class: "switch", role: "group", "aria-label": label }, buttons) : null;
}
