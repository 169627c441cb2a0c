const MAPS = {
  stage11: ["Stage 1.1", "query points (stars) prompt SAM; the surest mask wins", "no mask"],
  stage12: ["Stage 1.2", "SAM's automatic masks, named by what lies in them", "no mask"],
  labels: ["Free labels", "the vote of the three; hatched is ignored", "ignored"],
  dense: ["Dense CLIP", "what one has without training", "no class"],
  head: ["Head", "the prediction, learnt from free labels", "no class"],
  refined: ["Refined", "a vote inside SAM's surest masks", "no class"],
  truth: ["Truth", "", "not annotated"],
};
const state = { split: "", order: "ends", index: null, pair: null };
const byKey = new Map(REPORT.photos.map((photo) => [photo.key, photo]));
const scoreOf = (photo) => photo.scores.head ?? null;

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.seen = isIntersecting;
    if (isIntersecting) target.draw(target);
    else target.width = target.height = 0;
  }
}, { rootMargin: "300px" });

function picture(photo, kind = "") {
  const [height, width] = photo.size;
  const image = photo.picture ? el("img", { src: `files/${photo.key}.jpg`, alt: `Photo ${photo.id}`, loading: "lazy", decoding: "async" }) : null;
  return el("div", { class: `pic ${kind} ${photo.picture ? "" : "bare"}`, style: `aspect-ratio:${width}/${height};--ratio:${(width / height).toFixed(3)}` }, image);
}
// A picture whose overlay is drawn when it comes into view, and let go when it leaves it.
function overlaid(photo, name, draw, kind = "") {
  const canvas = el("canvas", { role: "img", "aria-label": `${name}: ${photo.id}`, class: kind, width: 0, height: 0 });
  canvas.draw = () => load(photo.key).then((numbers) => { if (canvas.seen) draw(canvas, numbers); }, (error) => say(error.message));
  const box = picture(photo, `tinted ${kind}`);
  box.append(canvas);
  watcher.observe(canvas);
  return box;
}
function describe(numbers, map) {
  const count = new Map();
  for (const c of numbers.maps[map]) count.set(c, (count.get(c) ?? 0) + 1);
  return [...count].sort((a, b) => b[1] - a[1]).slice(0, 6)
    .map(([c, n]) => `${c < 0 ? MAPS[map][2] : className(c)} ${percent(n / numbers.maps[map].length)}`).join(", ");
}
function say(text) {
  byId("live").textContent = text;
}
function named(index, none) {
  return el("span", { class: "name" }, swatch(index), index < 0 ? none : className(index));
}
const TIP = byId("tip");
// What lies under the pointer, beside it; an open dialog lies above all that is not in it.
function tip(event, content) {
  TIP.hidden = !content;
  if (!content) return;
  TIP.replaceChildren(content);
  const top = byId("photo").open ? byId("photo") : document.body;
  if (TIP.parentNode !== top) top.append(TIP);
  TIP.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - TIP.offsetWidth - 6))}px`;
  TIP.style.top = `${event.clientY > 60 ? event.clientY - 40 : event.clientY + 22}px`;
}
function shareAt(box, event) {
  const rectangle = box.getBoundingClientRect();
  const within = (v) => Math.min(1, Math.max(0, v));
  return [within((event.clientX - rectangle.left) / rectangle.width), within((event.clientY - rectangle.top) / rectangle.height)];
}

function card(photo) {
  const last = photo.truth.length || photo.scores.head !== undefined ? "truth" : photo.labelled === null ? "dense" : "labels";
  const shot = (map) => {
    const box = overlaid(photo, MAPS[map][0], (canvas, numbers) => {
      drawMap(canvas, numbers, map);
      canvas.setAttribute("aria-label", `${MAPS[map][0]} of ${photo.id}: ${describe(numbers, map)}`);
    });
    box.addEventListener("pointermove", (event) => load(photo.key).then((numbers) => {
      const index = numbers.maps[map][pixelAt(numbers, ...shareAt(box, event))];
      tip(event, box.matches(":hover") ? named(index, MAPS[map][2]) : null);
    }));
    box.addEventListener("pointerleave", (event) => tip(event, null));
    return el("figure", {}, box, el("figcaption", {}, MAPS[map][0]));
  };
  const score = scoreOf(photo);
  const its = state.index !== null ? photo.iou[state.index] : undefined;
  const said = its !== undefined ? `IoU ${figure(its)} of ${className(state.index)}` : score === null ? photo.split : `${photo.split} · mIoU ${figure(score)}`;
  return el("article", { class: "card", onclick: () => show(photo.key) },
    el("div", { class: "top" }, el("button", { type: "button", "aria-label": `Open ${photo.id}, ${said}` }, photo.id), el("span", {}, said)),
    el("div", { class: "row" }, el("figure", {}, picture(photo), el("figcaption", {}, photo.picture ? "Photo" : "Photo not at hand")), shot("head"), shot(last)),
    el("p", { class: "why" }, why(photo)));
}
function why(photo) {
  const wrong = photo.mistakes.slice(0, 2).map(([truth, said, share]) => `${className(truth)} taken for ${className(said)} (${percent(share)} of the pixels)`);
  if (wrong.length) return wrong.join("; ");
  if (scoreOf(photo) !== null) return "no mistake above a thousandth of the pixels";
  return `detected: ${photo.found.map(([c]) => className(c)).join(", ")}`;
}

function chosen() {
  const { split, index, pair, order } = state;
  const share = (photo) => photo.mistakes.find(([truth, said]) => pair && truth === pair[0] && said === pair[1])?.[2] ?? 0;
  const photos = REPORT.photos.filter((photo) => (!split || photo.split === split)
    && (index === null || photo.classes.includes(index)) && (!pair || share(photo)));
  const score = (photo) => (pair ? 1 - share(photo) : index === null ? scoreOf(photo) : photo.iou[index]) ?? 2;
  const byName = (a, b) => a.split.localeCompare(b.split) || a.id.localeCompare(b.id, undefined, { numeric: true });
  if (order === "name") return photos.sort(byName);
  const sorted = photos.sort((a, b) => score(a) - score(b) || byName(a, b));
  return order === "best" ? sorted.filter((p) => score(p) <= 1).reverse().concat(sorted.filter((p) => score(p) > 1)) : sorted;
}
function refresh() {
  const photos = chosen(), gallery = byId("gallery");
  gallery.replaceChildren();
  const scored = photos.filter((photo) => scoreOf(photo) !== null);
  const ends = state.order === "ends" && !state.pair && scored.length > 12 ? 6 : 0;
  const group = (title, part) => part.length && gallery.append(...(title ? [el("h3", {}, title)] : []), ...part.map(card));
  if (ends) {
    group("Worst", photos.slice(0, ends));
    const best = scored.slice(-ends).reverse();
    group("Best", best);
    group("All others, worst first", photos.slice(ends).filter((photo) => !best.includes(photo)));
  } else group("", photos);
  byId("shown").textContent = `${plural(photos.length, "photo")} of ${REPORT.photos.length}`;
  for (const chip of document.querySelectorAll("#legend .chip[data-class]")) chip.setAttribute("aria-pressed", Number(chip.dataset.class) === state.index);
  byId("class").value = state.index ?? "";
  byId("pair").replaceChildren(...(state.pair ? [el("button", { type: "button", onclick: () => { state.pair = null; refresh(); } },
    `${className(state.pair[0])} taken for ${className(state.pair[1])}  ✕`)] : []));
  gallery.order = photos;
}
function go(change) {
  Object.assign(state, change);
  refresh();
  byId("photos").scrollIntoView();
}
const showClass = (index) => go({ index, pair: null, split: "" });
const showPair = (truth, said) => go({ pair: [truth, said], index: null, split: "" });

function photosSection() {
  const choice = (id, label, options, pick) => el("label", {}, label, el("select", { id, onchange: (event) => { pick(event.target.value); refresh(); } },
    options.map(([value, text]) => el("option", { value }, text))));
  const used = new Set(REPORT.photos.flatMap((photo) => photo.classes));
  const splits = [...new Set(REPORT.photos.map((photo) => photo.split))];
  const scored = REPORT.photos.some((photo) => scoreOf(photo) !== null);
  if (!scored) state.order = "name";
  const classes = REPORT.classes.map((c, i) => [i, c.name]).filter(([i]) => used.has(i));
  return section("photos", "Photos",
    el("p", { class: "soft" }, "Press a photo for every step from picture to mask. Point at a mask for its class."),
    el("div", { class: "legend", id: "legend", role: "group", "aria-label": "Legend; a press filters the photos by class" },
      classes.map(([i, name]) => el("button", { type: "button", class: "chip", "data-class": i, title: REPORT.classes[i].words.join(", "),
        "aria-pressed": false, onclick: () => { Object.assign(state, { index: state.index === i ? null : i, pair: null }); refresh(); } }, swatch(i), name)),
      el("span", { class: "chip ignored" }, swatch(-1), "ignored, no class")),
    el("div", { class: "tools" },
      choice("class", "Class", [["", "all"], ...classes], (v) => Object.assign(state, { index: v === "" ? null : Number(v), pair: null })),
      splits.length > 1 ? choice("split", "Split", [["", "all"], ...splits.map((s) => [s, s])], (v) => { state.split = v; }) : null,
      choice("order", "Order", [...(scored ? [["ends", "worst and best"], ["worst", "worst first"], ["best", "best first"]] : []), ["name", "by name"]], (v) => { state.order = v; }),
      el("span", { id: "pair" }), el("span", { id: "shown", class: "soft", role: "status" })),
    el("div", { class: "gallery", id: "gallery" }));
}
