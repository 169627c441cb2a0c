function build() {
  const name = REPORT.workdir.split("/").filter(Boolean).pop();
  document.title = `Report: ${name}`;
  byId("title").textContent = `How good is ${name}?`;
  byId("sentence").textContent = REPORT.sentence || `No truth was at hand, so there are no scores: ${plural(REPORT.photos.length, "photo")} with what the head says of them. `
    + "With truth, fmbseg_jax.evaluate adds the figures.";
  if (!("DecompressionStream" in window)) byId("sentence").append(" This browser is too old to draw the masks: take one of 2023 or later.");
  byId("tiles").append(...tiles());
  const sections = [figuresSection(), labelsSection(), classesSection(), trainingSection(), failuresSection(), photosSection()].filter(Boolean);
  byId("main").replaceChildren(...sections, foot());
  byId("nav").append(el("div", {}, sections.map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent))));
  refresh();
  const dialog = byId("photo");
  dialog.addEventListener("close", () => { tip(null, null); history.replaceState(null, "", location.pathname + location.search); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT") return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  addEventListener("scroll", (event) => tip(event, null), { passive: true });
  fromHash();
  addEventListener("hashchange", fromHash);
}
function fromHash() {
  const key = decodeURIComponent(location.hash).match(/^#photo=(.*)$/)?.[1];
  if (key) show(key);
}
function figuresSection() {
  if (!REPORT.splits.length) return null;
  return section("figures", "Figures", el("p", { class: "soft" }, "mIoU, the mean over classes of the intersection over the union with truth. Dense CLIP is what one has without any training."),
    figuresTable(REPORT.splits, ["head", "oracle"]),
    el("details", {}, el("summary", {}, "What these figures mean"), REPORT.splits.map((split) => el("p", {}, el("b", {}, split.split), `: ${split.protocol}`))));
}
function labelsSection() {
  if (!REPORT.labels.length) return null;
  return section("labels", "Free labels", el("p", { class: "soft" }, "What CLIP and SAM say by themselves of the photos that the head is trained on, held against truth that the training never saw."),
    figuresTable(REPORT.labels, ["merged, labelled pixels"]),
    REPORT.labels.map(({ split, presence }) => el("p", { style: "margin-top:.75rem" }, `${split}: of the classes that were detected in a photo ${percent(presence.precision)} are there; of those that are there ${percent(presence.recall)} were detected.`)));
}
function classesSection() {
  if (!REPORT.splits.length) return null;
  const body = el("div");
  const pick = (at) => body.replaceChildren(...barChart(REPORT.splits[at]), el("h3", {}, "What is taken for what"), ...confusionMatrix(REPORT.splits[at]));
  pick(0);
  return section("classes", "Classes", el("p", { class: "soft" }, "IoU of each class, the best first. A press on a name shows its photos."),
    switcher(REPORT.splits.map((split) => split.split), pick, "Split"), body);
}
function trainingSection() {
  const { curves, seconds } = REPORT.training;
  if (!Object.keys(curves).length) return null;
  return section("training", "Training", trainingCharts(), timeChart());
}
function failuresSection() {
  if (!REPORT.failures.length) return null;
  return section("failures", `What could not be used, or not as it is: ${REPORT.failures.length}`, el("ul", {}, REPORT.failures.map(({ file, reason, mend, used }) => el("li", {}, el("code", {}, file), ` ${used ? "taken " : ""}${reason}; ${mend}`))));
}
function foot() {
  return el("footer", {}, el("p", { class: "soft", style: "padding:2rem 0" }, "Made by fmbseg_jax.report from ", el("code", {}, REPORT.data), " and ", el("code", {}, REPORT.workdir), `, step ${REPORT.step}.`));
}
build();
