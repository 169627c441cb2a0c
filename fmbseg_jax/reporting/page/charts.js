const SERIES = ["dense CLIP", "head", "refined", "oracle"];

function tiles() {
  const out = [];
  const add = (value, text) => out.push(el("div", { class: "tile" }, el("b", {}, value), el("span", {}, text)));
  const split = REPORT.splits[0];
  if (split) {
    const miou = Object.fromEntries(split.readings.map((row) => [row.name, row.miou]));
    const dense = miou[`dense CLIP, ${split.dense}`];
    add(figure(miou.head), `mIoU of the head, ${split.split}`);
    if (dense && miou.head !== null) add(`${(miou.head / dense).toFixed(2)} ×`, `dense CLIP (${figure(dense)})`);
    if (miou["head, refined"] !== undefined) add(figure(miou["head, refined"]), "refined with SAM's masks");
    if (miou.oracle && miou.head !== null) add(percent(miou.head / miou.oracle), `of a head trained on truth (${figure(miou.oracle)})`);
  }
  for (const { presence, split: name } of REPORT.labels) {
    add(`${percent(presence.precision)} · ${percent(presence.recall)}`, `detected classes right · found (${name})`);
  }
  if (!split) add(REPORT.photos.length, "photos shown");
  return out;
}

// One table: a reading a row, a split a column.
function figuresTable(splits, strong) {
  const names = [...new Set(splits.flatMap((split) => split.readings.map((row) => row.name)))];
  const best = (name, split) => split.readings.find((row) => row.name === name);
  const partial = splits.some((split) => split.readings.some((row) => row.coverage !== null && row.coverage < 0.9995));
  const cell = (row) => {
    if (!row) return el("td", {}, "–");
    const parts = Object.entries(row.groups).map(([group, value]) => `${group} ${figure(value)}`);
    if (row.boundary_iou !== undefined) parts.push(`boundary ${figure(row.boundary_iou)}`);
    parts.push(`pixel acc. ${figure(row.pixel_accuracy)}`);
    if (partial) parts.push(`covers ${percent(row.coverage)}`);
    return el("td", {}, el("b", {}, figure(row.miou)), el("small", {}, parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ")));
  };
  const head = splits.map((split) => el("th", { scope: "col" }, `mIoU on ${split.split}${split.use ? `, ${split.photos} ${split.use}` : ""}`));
  const rows = names.map((name) => el("tr", { class: strong.includes(name) ? "strong" : null },
    el("th", { scope: "row" }, name), splits.map((split) => cell(best(name, split)))));
  return el("div", { class: "scroll" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "reading"), head)), el("tbody", {}, rows)));
}

function barChart(split) {
  const series = SERIES.filter((name) => split.per_class[name]);
  const order = split.classes.map((_, i) => i).sort((a, b) => (split.per_class.head[b] ?? -1) - (split.per_class.head[a] ?? -1));
  const bars = order.map((i) => {
    const values = series.map((name) => `${name} ${figure(split.per_class[name][i])}`).join(", ");
    return el("div", { class: "bar", title: `${split.classes[i]}: ${values}` },
      el("button", { type: "button", "aria-label": `${split.classes[i]}: ${values}. Show its photos`, onclick: () => showClass(i) }, split.classes[i]),
      el("div", { "aria-hidden": "true" }, series.map((name) => el("u", {
        class: `s${SERIES.indexOf(name)}`, style: `width:${(split.per_class[name][i] ?? 0) * 100}%` }))),
      el("span", { class: "soft" }, figure(split.per_class.head[i])));
  });
  return [
    el("div", { class: "keys" }, series.map((name) => el("span", {}, el("i", { class: `s${SERIES.indexOf(name)}` }),
      name === "dense CLIP" ? `dense CLIP (${split.dense})` : name === "oracle" ? "oracle: trained on truth" : name))),
    el("div", { class: "bars", id: "bars" }, bars),
  ];
}

function confusionMatrix(split) {
  const view = split.confusion;
  if (!view) return [el("p", {}, "What is confused with what is counted by fmbseg_jax.evaluate: run it again on this RUN.")];
  const some = (at) => view.rows.some((row) => row[at] > 0);
  const columns = [...view.classes.map((c) => [split.classes[c], c]), some(view.classes.length) ? ["other classes", null] : null,
    some(view.classes.length + 1) ? ["no class", split.classes.length] : null];
  const cell = (truth, column, value) => {
    const [said, index] = column;
    const text = value >= 0.005 ? String(Math.round(value * 100)) : "";
    const says = `${percent(value)} of ${split.classes[truth]} is taken for ${said}`;
    const open = index !== null && index !== truth && value > 0.005;
    return el("td", { class: index === truth ? "hit" : null, title: says }, el(open ? "button" : "span",
      { style: `--v:${(index === truth ? value : Math.sqrt(value)).toFixed(3)}`, "aria-label": says, ...(open ? { type: "button", onclick: () => showPair(truth, index) } : {}) }, text));
  };
  const body = view.rows.map((row, i) => el("tr", {}, el("th", { scope: "row" }, split.classes[view.classes[i]]),
    columns.map((column, j) => column && cell(view.classes[i], column, row[j]))));
  const table = el("table", { class: "matrix" },
    el("thead", {}, el("tr", {}, el("td"), columns.map((column) => column && el("th", { scope: "col" }, el("span", {}, column[0]))))),
    el("tbody", {}, body));
  const pairs = view.pairs.map(([truth, said, share]) => el("li", {}, el("button", { type: "button", onclick: () => showPair(truth, said) },
    el("b", {}, split.classes[truth]), " taken for ", el("b", {}, split.classes[said] ?? "no class"), `: ${percent(share)} of its pixels`)));
  return [
    el("p", { class: "soft" }, `Of 100 pixels of the true class (row), how many the head calls what (column).${view.all ? "" :
      ` The ${view.classes.length} classes that are missed most.`} A press on a field shows the photos where it happens.`),
    el("div", { class: "two" }, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, table),
      el("div", {}, el("h3", { style: "margin-top:0" }, "The largest confusions"), pairs.length ? el("ol", { class: "pairs" }, pairs) : "None above 1 %.")),
  ];
}

function curve(title, lines, description) {
  const points = lines.flatMap((line) => line.points);
  const [w, h, left, bottom] = [420, 190, 38, 24];
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x1, low, high] = [Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const y0 = low >= 0 && high <= 1 && low > 0.5 ? Math.floor(low * 10) / 10 : Math.min(0, low);
  const y1 = high <= 1 && y0 >= 0.5 ? 1 : high || 1;
  const x = (v) => left + (v / x1) * (w - left - 8), y = (v) => h - bottom - ((v - y0) / (y1 - y0 || 1)) * (h - bottom - 8);
  const ticks = [0, 1, 2, 3, 4].map((i) => y0 + ((y1 - y0) * i) / 4);
  const steps = [0, 1, 2, 3].map((i) => Math.round((x1 * i) / 3));
  return el("figure", {}, el("h3", {}, title),
    svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": `${title}: ${lines.map((line) => `${line.name} from ${figure(line.points[0][1])} to ${figure(line.points.at(-1)[1])}`).join(", ")}` },
      ticks.map((v) => [svg("line", { class: "axis", x1: left, x2: w - 8, y1: y(v), y2: y(v) }),
        svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(2))]).flat(),
      steps.map((v, i) => svg("text", { x: x(v), y: h - 7, "text-anchor": i === 3 ? "end" : i ? "middle" : "start" }, i === 3 ? `${v} steps` : String(v))),
      lines.map((line) => svg("polyline", { class: `line ${line.kind}`, points: line.points.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }))),
    el("div", { class: "keys" }, lines.map((line) => el("span", {}, el("i", { class: `line ${line.kind}` }), line.name))),
    el("p", { class: "why" }, description));
}

function trainingCharts() {
  const { curves } = REPORT.training;
  const pair = (name) => [["", name, "photos it trains on"], ["held", `held_out_${name}`, "photos held out"]]
    .filter(([, key]) => curves[key]).map(([kind, key, said]) => ({ kind, name: said, points: curves[key] }));
  const out = [];
  if (pair("loss").length) out.push(curve("Loss", pair("loss"), "Held out are photos with free labels that are never trained on; the checkpoint of their lowest loss is kept."));
  if (pair("agreement").length) out.push(curve("Agreement with the targets", pair("agreement"), "Share of labelled patches where the head says what its target says. Free labels are not truth: 1 would be too good."));
  return el("div", { class: "charts" }, out);
}

function timeChart() {
  const entries = Object.entries(REPORT.training.seconds).sort((a, b) => b[1] - a[1]);
  const total = entries.reduce((sum, entry) => sum + entry[1], 0);
  if (!total) return [];
  const inks = ["var(--head)", "var(--refined)", "var(--wrong)", "var(--dense)", "var(--soft)"];
  const ink = (i) => inks[Math.min(i, inks.length - 1)];
  return [el("h3", {}, `Where the training's time went: ${total.toFixed(1)} s`),
    el("div", { class: "time", role: "img", "aria-label": entries.map(([name, s]) => `${name} ${s.toFixed(1)} s`).join(", ") },
      entries.map(([name, s], i) => el("i", { title: `${name}: ${s.toFixed(1)} s`, style: `flex:${s};background:${ink(i)}` }))),
    el("div", { class: "keys" }, entries.map(([name, s], i) => el("span", {}, el("i", { style: `background:${ink(i)}` }), `${name} ${s.toFixed(1)} s`)))];
}
