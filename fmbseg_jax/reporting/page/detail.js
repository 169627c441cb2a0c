// One photo, every step: panels that know what lies at a point, and a point that all of them share.
let panels = [];
let open = null;

function show(key) {
  const photo = byKey.get(key), dialog = byId("photo");
  if (!photo) return;
  open = { photo, index: open?.index ?? null, tint: open?.tint ?? 0.7 };
  if (!dialog.open) dialog.showModal();
  history.replaceState(null, "", `#photo=${encodeURIComponent(key)}`);
  dialog.replaceChildren(el("p", { class: "body" }, "…"));
  load(key).then((numbers) => { if (open?.photo === photo) fillDialog(dialog, photo, numbers); }, (error) => dialog.replaceChildren(el("p", { class: "body" }, error.message)));
}
function step(by) {
  const order = byId("gallery").order, at = order.indexOf(open.photo);
  const next = order[at + by];
  if (next) show(next.key);
}
function fillDialog(dialog, photo, numbers) {
  const order = byId("gallery").order, at = order.indexOf(photo);
  const score = scoreOf(photo);
  if (!numbers.classes.includes(open.index)) open.index = photo.mistakes[0] && numbers.classes.includes(photo.mistakes[0][0]) ? photo.mistakes[0][0] : numbers.classes.includes(photo.found[0]?.[0]) ? photo.found[0][0] : numbers.classes[0];
  const title = `${photo.id} · ${photo.split}${score === null ? "" : ` · mIoU ${figure(score)}`}`;
  const nav = (by, sign, word) => el("button", { type: "button", "aria-label": `${word} photo`, disabled: !order[at + by] || at < 0, onclick: () => step(by) }, sign, el("span", { class: "word" }, ` ${word}`));
  const body = el("div", { class: "body" });
  dialog.replaceChildren(el("div", { class: "head" }, nav(-1, "←", "Previous"), nav(1, "→", "Next"), el("h2", { id: "which" }, title),
    el("button", { type: "button", onclick: () => dialog.close(), "aria-label": "Close" }, "✕")), body);
  const refill = () => body.replaceChildren(...contents(photo, numbers, refill));
  refill();
  dialog.scrollTop = 0;
}
function contents(photo, numbers, refill) {
  panels = [];
  const c = open.index;
  const chips = numbers.classes.map((i) => {
    const found = photo.found.find(([index]) => index === i);
    const facts = [found ? `detected ${figure(found[1])}` : null, photo.truth.includes(i) ? `IoU ${figure(photo.iou[i])}` : null].filter(Boolean);
    return el("button", { type: "button", class: "chip", "aria-pressed": i === c, "data-class": i, onclick: (event) => {
      open.index = i;
      refill();
      byId("photo").querySelector(`.chip[data-class="${i}"]`).focus();
    } }, swatch(i), className(i), facts.length ? el("small", {}, facts.join(" · ")) : null);
  });
  const slider = el("input", { type: "range", min: 0, max: 100, value: open.tint * 100, oninput: (event) => tint(event.target.value / 100) });
  tint(open.tint);
  const map = (name) => numbers.maps[name] && panel(photo, numbers, MAPS[name][0], MAPS[name][1], photo.scores[name],
    (canvas) => { drawMap(canvas, numbers, name); canvas.setAttribute("aria-label", `${MAPS[name][0]}: ${describe(numbers, name)}`); },
    (i) => named(numbers.maps[name][i], MAPS[name][2]));
  const stage11 = map("stage11");
  if (stage11) stage11.querySelector(".pic").append(stars(numbers, numbers.points));
  return [
    el("p", { class: "soft" }, why(photo), photo.labelled === null ? "" : ` · free labels cover\u00a0${percent(photo.labelled)}`),
    el("div", { class: "tools" }, el("label", {}, "Colours over the photo", slider)),
    el("h3", {}, "Before and after alignment"),
    el("p", { class: "soft" }, "How similar each patch is to the words of a class, for dense CLIP and for the trained head, each map from its least to its greatest cosine. Pick a class:"),
    el("div", { class: "legend", role: "group", "aria-label": "Class of the similarity maps and query points" }, chips),
    el("div", { class: "panels" }, panel(photo, numbers, "Photo", photo.picture ? "" : "not at photos.root", undefined, null, null),
      similarity(photo, numbers, "before", `CLIP (${REPORT.variant})`, c), similarity(photo, numbers, "after", "Head", c),
      numbers.masks.length ? queryPoints(photo, numbers, c) : null),
    verdict(photo, numbers, c),
    numbers.maps.labels ? el("h3", {}, "How the free labels come about") : null,
    numbers.maps.labels ? el("div", { class: "panels" }, map("dense"), stage11, map("stage12"), map("labels")) : null,
    el("h3", {}, "What comes out"),
    el("div", { class: "panels" }, numbers.maps.labels ? null : map("dense"), map("head"), map("refined"), map("truth"), numbers.maps.truth ? panel(photo, numbers, "Mistakes of the head", "what it says where it is wrong", undefined,
      (canvas) => drawMistakes(canvas, numbers), (i) => named(numbers.maps.head[i], MAPS.head[2]), "veil") : null),
  ].filter(Boolean);
}
// Where a class is lost on the way: how many of its true pixels each step has right.
function verdict(photo, numbers, c) {
  const { truth } = numbers.maps;
  const size = truth ? truth.reduce((sum, v) => sum + (v === c), 0) : 0;
  if (!size) return null;
  const found = photo.found.find(([index]) => index === c);
  const steps = ["dense", "stage11", "stage12", "labels", "head", "refined"].filter((name) => numbers.maps[name]).map((name) => {
    const right = truth.reduce((sum, v, i) => sum + (v === c && numbers.maps[name][i] === c), 0);
    return `${MAPS[name][0][0].toLowerCase()}${MAPS[name][0].slice(1)} ${percent(right / size)}`;
  });
  return el("p", { class: "verdict" }, el("b", {}, className(c)), ` covers ${percent(size / truth.length)} of the photo and was ${found ? `detected (${figure(found[1])})` : "not detected, so free labels cannot have it"}. `
    + `Of its pixels are right: ${steps.join(", ")}.`);
}
function tint(value) {
  open.tint = value;
  document.documentElement.style.setProperty("--tint", value);
}
function similarity(photo, numbers, name, title, c) {
  const [low, high] = numbers.range[name][numbers.classes.indexOf(c)], values = numbers.similarity[name].get(c);
  const value = (i) => low + ((high - low) * values[patchAt(numbers, i)]) / 255;
  const made = panel(photo, numbers, title, `similarity to ${className(c)}, ${name} alignment`, undefined, (canvas) => {
    drawSimilarity(canvas, numbers, name, c);
    canvas.setAttribute("aria-label", `${title}: similarity of each patch to ${className(c)}, cosines from ${low.toFixed(2)} to ${high.toFixed(2)}`);
  }, (i) => `cosine ${value(i).toFixed(2)}`, "heat");
  made.querySelector("figcaption").append(el("span", { class: "stops" }, low.toFixed(2), el("i", { style: `background:linear-gradient(90deg,${HEAT.join(",")})` }), high.toFixed(2)));
  return made;
}
const patchAt = (numbers, i) => Math.min(numbers.rows - 1, Math.floor((Math.floor(i / numbers.width) / numbers.height) * numbers.rows)) * numbers.columns
  + Math.min(numbers.columns - 1, Math.floor(((i % numbers.width) / numbers.width) * numbers.columns));

function queryPoints(photo, numbers, c) {
  const count = pointsOf(numbers, c).length;
  const made = panel(photo, numbers, "Query points", count ? `${plural(count, "star")} of ${className(c)} on the masks they gave` : `none: ${className(c)} was not detected in the photo`, undefined,
    (canvas) => drawMasks(canvas, numbers, c),
    (i) => {
      const here = [...new Set(pointsOf(numbers, c).filter((point) => numbers.masks[point[3]]()[i]).map((point) => point[0]))];
      return here.length ? el("span", {}, ...here.map((index) => [named(index), " "]).flat()) : "no mask";
    }, "full");
  made.querySelector(".pic").append(stars(numbers, pointsOf(numbers, c)));
  return made;
}
// A figure with its reading under the pointer: by mouse, finger, or arrow keys.
function panel(photo, numbers, title, text, score, draw, read, kind = "") {
  const box = draw ? overlaid(photo, title, draw, kind) : picture(photo);
  const at = el("span", { class: "at" }), cross = el("i", { class: "cross", hidden: true });
  box.append(cross);
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `${title}. Arrow keys move a point over it.`);
  const caption = el("figcaption", {}, el("b", {}, title), score === undefined ? "" : ` mIoU ${figure(score)}`, text ? el("span", { style: "display:block" }, text) : "", at);
  panels.push({ numbers, read, at, cross });
  const point = (event) => {
    const [x, y] = shareAt(box, event);
    pointAt(x, y);
    tip(event, read ? el("span", {}, read(pixelAt(numbers, x, y))) : null);
  };
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerdown", point);
  box.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tip(event, null); });
  box.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const far = event.shiftKey ? 0.1 : 0.02;
    const [x, y] = [0, 1].map((k) => Math.min(1, Math.max(0, (open.at ?? [0.5, 0.5])[k] + move[k] * far)));
    pointAt(x, y);
    say(read ? el("span", {}, read(pixelAt(numbers, x, y))).textContent : "");
  });
  return el("figure", {}, box, caption);
}
function pointAt(x, y) {
  open.at = [x, y];
  for (const { numbers, read, at, cross } of panels) {
    cross.hidden = false;
    cross.style.left = `${x * 100}%`;
    cross.style.top = `${y * 100}%`;
    if (read) at.replaceChildren(read(pixelAt(numbers, x, y)));
  }
}
