"use strict";
// Draws the report from the data of a run. Energies are computed here from the counts, so that conventions can be switched.

const $ = (selector) => document.querySelector(selector);
const node = (space) => (tag, attributes = {}, ...children) => {
  const made = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
};
const html = node(null), svg = node("http://www.w3.org/2000/svg");

let data = null, chosen = null;

// Energy ---------------------------------------------------------------------------------------------------------------------

const convention = () => data.conventions.find((c) => c.name === $("#convention").value);
const costs = () => data.costs.find((c) => c.name === $("#costs").value) || convention().costs;
const multiplies = (c, row) => row.input === "real" || (row.input === "integer" && c.integers === "macs");
const includes = (c, row) => row.form === "always" || row.form === (c.fused ? "fused" : "separate");
const sum = (values) => values.reduce((a, b) => a + b, 0);

function operations(c, row) {
  if (!includes(c, row)) return [0, 0];
  const once = (row.reads === "image" && c.image === "once") || (row.reads === "mean" && c.head === "once");
  if (multiplies(c, row)) return [row.macs * (once ? 1 : row.time_steps), 0];
  return [0, c.accumulations === "rate" ? row.macs * sum(row.rate) : sum(row.acs)];
}
const millijoules = ([macs, acs], cost = costs()) => (cost.pj_per_mac * macs + cost.pj_per_ac * acs) * 1e-9;

const OBJECTIVES = {
  accuracy: { label: "accuracy on the search split", best: "max", value: (i) => data.candidates.accuracy[i] },
  energy: { label: "energy per image", best: "min", log: true, value: (i) => millijoules(totals(i)), energy: true },
  params: { label: "parameters", best: "min", log: true, value: (i) => data.candidates.params[i] },
  time_steps: { label: "time steps T", best: "min", value: (i) => data.candidates.time_steps[i] },
  acs: { label: "accumulations per image", best: "min", log: true, value: (i) => totals(i)[1] },
  macs: { label: "multiply-accumulates per image", best: "min", value: (i) => totals(i)[0] },
};
const totals = (i) => data.candidates.operations[convention().counts].map((column) => column[i]);

// Numbers --------------------------------------------------------------------------------------------------------------------

const percent = (x) => `${(100 * x).toFixed(2)} %`;
const joules = (mj) => (mj >= 1 ? `${mj.toPrecision(4)} mJ` : `${(1000 * mj).toPrecision(4)} µJ`);
function short(x) {
  for (const [scale, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (Math.abs(x) >= scale) return `${+(x / scale).toPrecision(3)}${letter}`;
  return `${+x.toPrecision(3)}`;
}

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of [1, 2, 5]) { const t = m * 10 ** e; if (t >= low && t <= high) found.push(t); }
    return found.length > 8 ? found.filter((t) => Number.isInteger(Math.round(1e6 * Math.log10(t)) / 1e6)) : found;
  }
  const step = 10 ** Math.floor(Math.log10((high - low) / 4 || 1));
  const size = [1, 2, 5, 10].map((m) => m * step).find((s) => (high - low) / s <= 6);
  const found = [];
  for (let t = Math.ceil(low / size) * size; t <= high + 1e-9 * size; t += size) found.push(+t.toPrecision(10));
  return found;
}

// Charts ---------------------------------------------------------------------------------------------------------------------

// An empty chart with axes; returns the functions from values to pixels and the element to draw in.
function chart(target, { x, y, width = 640, height = 380, title }) {
  const box = { left: 62, right: width - 14, top: 12, bottom: height - 44 };
  const scale = (axis, from, to) => {
    let [low, high] = axis.range;
    const log = axis.log && low > 0;
    if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
    const f = log ? Math.log : (v) => v, pad = 0.04 * (f(high) - f(low));
    const at = (v) => from + ((f(v) - f(low) + pad) / (f(high) - f(low) + 2 * pad)) * (to - from);
    return Object.assign(at, { ticks: ticks(low, high, log) });
  };
  const X = scale(x, box.left, box.right), Y = scale(y, box.bottom, box.top);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  const say = (axis, v) => (axis.format ? axis.format(v) : short(v));
  for (const t of X.ticks) root.append(svg("line", { class: "gridline", x1: X(t), x2: X(t), y1: box.top, y2: box.bottom }),
    svg("text", { class: "axis", x: X(t), y: box.bottom + 16, "text-anchor": "middle" }, say(x, t)));
  for (const t of Y.ticks) root.append(svg("line", { class: "gridline", x1: box.left, x2: box.right, y1: Y(t), y2: Y(t) }),
    svg("text", { class: "axis", x: box.left - 6, y: Y(t) + 4, "text-anchor": "end" }, say(y, t)));
  root.append(svg("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, x.label),
    svg("text", { transform: `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label));
  target.replaceChildren(root);
  return { root, X, Y, box };
}

const range = (values) => [Math.min(...values), Math.max(...values)];
const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function lines(target, series, axes) {
  const all = series.flatMap((s) => s.points).filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b));
  if (!all.length) return target.replaceChildren(html("p", { class: "note" }, axes.empty || "No data yet."));
  const { root, X, Y, box } = chart(target, {
    ...axes, x: { ...axes.x, range: range(all.map((p) => p[0])) }, y: { ...axes.y, range: range(all.map((p) => p[1])) },
    width: 460, height: 280 });
  series.forEach((s, k) => {
    const drawn = s.points.filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b)).map(([a, b]) => [X(a), Y(b)]);
    root.append(svg("path", { class: `curve line${k % 4}`, d: path(drawn) }, svg("title", {}, s.name)));
    if (s.points.length < 20) s.points.forEach(([a, b], i) => root.append(
      svg("circle", { cx: X(a), cy: Y(b), r: 3.5, class: "front-dot" }, svg("title", {}, s.labels ? s.labels[i] : `${s.name}: ${short(a)}, ${short(b)}`))));
    if (series.length > 1) root.append(
      svg("line", { class: `curve line${k % 4}`, x1: box.left + 10, x2: box.left + 34, y1: box.top + 8 + 15 * k, y2: box.top + 8 + 15 * k }),
      svg("text", { x: box.left + 40, y: box.top + 12 + 15 * k }, s.name));
  });
}

// The front -------------------------------------------------------------------------------------------------------------------

function front(x, y) {
  const sign = (objective) => (objective.best === "max" ? -1 : 1);
  const points = data.candidates.id.map((_, i) => [sign(x) * x.value(i), sign(y) * y.value(i), i]).filter(([a, b]) => !isNaN(a + b)).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let best = Infinity;
  return points.filter(([, b]) => (b < best ? ((best = b), true) : false)).map(([, , i]) => i);
}

function description(i) {
  const c = data.candidates, [low, high] = c.interval[i];
  return `${c.id[i]}${c.id[i] === data.selected ? " (exported)" : ""}\n${data.metric} ${percent(c.accuracy[i])} (95 % ${percent(low)} to ${percent(high)})` +
    `\nenergy ${joules(millijoules(totals(i)))}, ${short(c.params[i])} parameters, T = ${c.time_steps[i]}${exit(i)}\n${genes(i)}`;
}

function exit(i) { // early exit, in words
  const c = data.candidates, margin = c.exit_margin ? c.exit_margin[i] : null;
  return margin === null ? "" : `\nearly exit at margin ${margin}: mean T ${c.mean_time_steps[i].toFixed(2)}; the energy is an estimate`;
}

function genes(i) {
  const a = architecture(i);
  return a.stages.map((s, k) => `stage ${k + 1}: width ${s.embed_dim}, ${s.blocks.length} blocks\n` +
    s.blocks.map((b) => `  ${b.token_mixer}${b.num_heads ? `, ${b.num_heads} heads` : ""}, ratio ${b.mlp_ratio}, threshold ${b.neuron.v_threshold}, tau ${b.neuron.tau}`).join("\n")).join("\n");
}
const architecture = (i) => ({ ...data.architectures[data.candidates.architecture[i]], time_steps: data.candidates.time_steps[i] });

function tip(event, text) {
  const box = $("#tip");
  box.style.display = text ? "block" : "none";
  box.textContent = text || "";
  if (text && event) { box.style.left = `${Math.min(event.clientX + 14, innerWidth - 390)}px`; box.style.top = `${Math.min(event.clientY + 14, innerHeight - 160)}px`; }
}

function drawFront() {
  const x = OBJECTIVES[$("#x").value], y = OBJECTIVES[$("#y").value], on = front(x, y);
  const unit = Math.max(...on.map((i) => millijoules(totals(i)))) >= 1 ? ["mJ", 1] : ["µJ", 1000];
  const value = (objective, i) => objective.value(i) * (objective.energy ? unit[1] : 1);
  const label = (objective) => (objective.energy ? `${objective.label} (${unit[0]}, counted, ${convention().name})` : objective.label);
  const values = data.candidates.id.map((_, i) => [value(x, i), value(y, i)]);
  const axis = (objective, k) => ({ label: label(objective), log: objective.log, range: range(values.map((v) => v[k]).filter((v) => !isNaN(v))) });
  const { root, X, Y } = chart($("#front"), { x: axis(x, 0), y: axis(y, 1), title: "All candidates and the Pareto front", height: 430 });
  const at = (i) => [X(values[i][0]), Y(values[i][1])];
  const isOn = new Set(on);
  values.forEach((_, i) => {
    if (isOn.has(i) || values[i].some(isNaN)) return;
    const [cx, cy] = at(i);
    root.append(svg("circle", { class: "dot", cx, cy, r: 3, "data-id": data.candidates.id[i], onclick: () => choose(i),
      onmousemove: (e) => tip(e, description(i)), onmouseleave: () => tip() }));
  });
  root.append(svg("path", { class: "front", d: path(on.map(at)) }));
  on.forEach((i, k) => {
    const [cx, cy] = at(i);
    if (y === OBJECTIVES.accuracy) {
      const [low, high] = data.candidates.interval[i].map((v) => Math.max(Math.min(v, 1.2), 0));
      const clip = (v) => Math.min(Math.max(Y(v), 12), 386);
      root.append(svg("line", { class: "whisker", x1: cx, x2: cx, y1: clip(low), y2: clip(high) }));
    }
    const move = (e) => {
      if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(i); }
      const next = { ArrowRight: k + 1, ArrowLeft: k - 1 }[e.key];
      if (next !== undefined && on[next] !== undefined) { e.preventDefault(); $(`[data-front="${next}"]`).focus(); }
    };
    root.append(svg("circle", { class: "front-dot", cx, cy, r: 5.5, tabindex: 0, role: "button", "data-front": k, "data-id": data.candidates.id[i],
      "aria-label": description(i).replaceAll("\n", "; "), onclick: () => choose(i), onkeydown: move,
      onmousemove: (e) => tip(e, description(i)), onmouseleave: () => tip(), onfocus: () => tip(null, description(i)), onblur: () => tip() }));
  });
  if (chosen !== null) { const [cx, cy] = at(chosen); root.append(svg("circle", { class: "chosen", cx, cy, r: 10 })); }
  if (data.reference && x === OBJECTIVES.energy && y === OBJECTIVES.accuracy) {
    const c = convention(), total = data.reference.layers.map((row) => operations(c, row)).reduce((a, b) => [a[0] + b[0], a[1] + b[1]], [0, 0]);
    const cx = X(millijoules(total) * unit[1]), cy = Y(data.reference.accuracy);
    root.append(svg("path", { class: "reference", d: `M${cx} ${cy - 9}l7 9l-7 9l-7 -9z` }, svg("title", {}, `reference network, ${joules(millijoules(total))}`)));
  }
  $("#front-caption").textContent = `${data.candidates.id.length} of ${data.measured} measured candidates, ${on.length} on the front of ${x.label} and ${y.label}. ` +
    "Whiskers: 95 % interval. Diamond: the reference network. Click a point, or use Tab, the arrow keys and Enter." +
    (data.candidates.exit_margin ? ` ${on.filter((i) => exit(i)).length} on the front have early exit; their energies are estimates.` : "");
  table($("#front-table"), ["candidate", data.metric, "energy", "parameters", "T"], on.map((i) => [
    html("button", { onclick: () => choose(i) }, data.candidates.id[i]), percent(OBJECTIVES.accuracy.value(i)), joules(millijoules(totals(i))),
    short(data.candidates.params[i]), data.candidates.time_steps[i] + (exit(i) ? `, mean ${data.candidates.mean_time_steps[i].toFixed(2)}` : "")]));
}

function table(target, head, rows) {
  target.replaceChildren(html("table", {}, html("thead", {}, html("tr", {}, head.map((h) => html("th", { scope: "col" }, h)))),
    html("tbody", {}, rows.map((row) => html("tr", {}, row.map((cell) => html("td", {}, cell instanceof Node ? cell : `${cell}`)))))));
}

// One candidate ------------------------------------------------------------------------------------------------------------------

function choose(i) { chosen = i; drawFront(); drawCandidate(); }

function parts(a) { // the segments of an architecture, in the order of computation
  const found = [];
  a.stages.forEach((s, k) => {
    found.push({ path: `stages.${k}.embedding`, text: `embedding to ${s.embed_dim}, stride ${s.embedding.stride}` });
    s.blocks.forEach((b, j) => {
      if (b.token_mixer !== "none") found.push({ path: `stages.${k}.blocks.${j}.token`, text: `${b.token_mixer}${b.num_heads ? `, ${b.num_heads} heads` : ""}` });
      found.push({ path: `stages.${k}.blocks.${j}.channel`, text: `${b.channel_mixer}, ratio ${b.mlp_ratio}, thr ${b.neuron.v_threshold}, tau ${b.neuron.tau}` });
    });
  });
  return [...found, { path: "head", text: "head" }];
}

function drawCandidate() {
  const i = chosen, c = convention(), layers = data.layers[data.candidates.id[i]];
  $("#candidate").replaceChildren(html("p", { style: "white-space: pre-line" }, description(i).split("\n").slice(0, exit(i) ? 4 : 3).join("\n")));
  drawSteps(i);
  if (!layers) {
    $("#candidate").append(html("p", { class: "note" }, "Counts by layer are in this page for candidates on a front only."), html("pre", {}, genes(i)));
    $("#layers").replaceChildren(); $("#heat").replaceChildren();
    return;
  }
  const energies = layers.map((row) => millijoules(operations(c, row))), total = sum(energies);
  const found = parts(architecture(i)).map((part) => {
    const mine = layers.map((row, k) => [row, energies[k]]).filter(([row]) => row.layer === part.path || row.layer.startsWith(`${part.path}.`) || (part.path === "head" && row.layer.startsWith("head")));
    const spiking = mine.filter(([row]) => row.rate.length && includes(c, row));
    return { ...part, energy: sum(mine.map(([, e]) => e)), rate: spiking.length ? sum(spiking.map(([row]) => sum(row.rate) / row.rate.length)) / spiking.length : null };
  });
  const h = 26, root = svg("svg", { viewBox: `0 0 460 ${h * found.length + 4}`, role: "img", "aria-label": "The architecture from image to logits, with energy and firing rate of each part" });
  found.forEach((part, k) => root.append(
    svg("rect", { class: "box", x: 1, y: 2 + h * k, width: 458, height: h - 4, rx: 3 }),
    svg("rect", { class: "share", x: 1, y: 2 + h * k, width: (458 * part.energy) / (Math.max(...found.map((p) => p.energy)) || 1), height: h - 4, rx: 3 }),
    svg("text", { x: 8, y: 15 + h * k }, `${part.path.replace("stages.", "").replace(".blocks.", ".")}  ${part.text}`),
    svg("text", { x: 452, y: 15 + h * k, "text-anchor": "end" }, `${joules(part.energy)}${part.rate === null ? "" : `, rate ${part.rate.toFixed(3)}`}`)));
  $("#candidate").append(root, html("p", { class: "note" }, `Total ${joules(total)} under ${c.name}. Rate: mean value that enters the layers of a part per time step; for spikes the firing rate.`));
  table($("#layers"), ["layer", "input", "rate", "MACs", "ACs", "energy", "share"], layers.map((row, k) => [row, k]).filter(([row]) => includes(c, row)).map(([row, k]) => {
    const [macs, acs] = operations(c, row);
    return [row.layer, row.input, row.rate.length ? (sum(row.rate) / row.rate.length).toFixed(4) : "", short(macs), short(acs), joules(energies[k]), percent(energies[k] / total)];
  }));
  heat(layers.filter((row) => row.rate.length && includes(c, row)));
}

function heat(layers) { // firing rates by layer and time step
  const steps = Math.max(...layers.map((row) => row.rate.length), 1), h = 16, left = 250, w = Math.min(60, 200 / steps);
  const most = Math.max(...layers.flatMap((row) => row.rate), 1e-9);
  const root = svg("svg", { viewBox: `0 0 ${left + w * steps + 10} ${h * layers.length + 22}`, role: "img", "aria-label": "Heat map of the mean input of each layer at each time step" });
  layers.forEach((row, k) => {
    root.append(svg("text", { x: left - 6, y: h * k + 12, "text-anchor": "end", style: "font-size: 10px" }, row.layer.replace("stages.", "").replace(".mixer", "")));
    row.rate.forEach((rate, t) => root.append(svg("rect", { x: left + w * t, y: h * k, width: w - 1, height: h - 1, fill: `rgba(var(--heat), ${(0.04 + (0.96 * rate) / most).toFixed(3)})` },
      svg("title", {}, `${row.layer}, step ${t + 1}: ${rate.toFixed(4)}`))));
  });
  for (let t = 0; t < steps; t++) root.append(svg("text", { class: "axis", x: left + w * (t + 0.5), y: h * layers.length + 14, "text-anchor": "middle" }, `t = ${t + 1}`));
  $("#heat").replaceChildren(root, html("p", { class: "note" }, `White is 0, the darkest is ${most.toFixed(3)}.`));
}

function drawSteps(i) {
  const c = data.candidates, same = c.id.map((_, k) => k).filter((k) => c.architecture[k] === c.architecture[i]).sort((a, b) => c.time_steps[a] - c.time_steps[b]);
  const unit = Math.max(...same.map((k) => millijoules(totals(k)))) >= 1 ? ["mJ", 1] : ["µJ", 1000];
  lines($("#steps"), [{ name: c.id[i], points: same.map((k) => [millijoules(totals(k)) * unit[1], OBJECTIVES.accuracy.value(k)]),
    labels: same.map((k) => `T = ${c.time_steps[k]}: ${percent(OBJECTIVES.accuracy.value(k))}, ${joules(millijoules(totals(k)))}`) }],
  { x: { label: `energy per image (${unit[0]}), one point for each T: ${same.map((k) => c.time_steps[k]).join(", ")}` }, y: { label: data.metric }, title: `${data.metric} and energy at each T` });
}

// Other figures ----------------------------------------------------------------------------------------------------------------

function drawSearch() {
  const name = convention().name;
  lines($("#search"), data.searches.filter((s) => s.hypervolume[name]).map((s) => ({ name: `${s.algorithm} ${s.id.slice(-6)}`, points: s.evaluations.map((n, k) => [n, s.hypervolume[name][k]]) })),
    { x: { label: "candidates, by-products included" }, y: { label: "hypervolume" }, title: "Hypervolume against evaluations", empty: `No hypervolume under ${name} in this page.` });
  const random = data.searches.some((s) => s.algorithm === "random");
  $("#search-note").textContent = (random ? "" : "There is no random search in this archive to compare with; add one: autospike search RUN --set search.algorithm=random. ") +
    `Share of the box between ${data.metric} 0 and 1 and the energy of the largest subnet.`;
}

function bars(target, rows, names) {
  const h = 30, root = svg("svg", { viewBox: `0 0 460 ${h * rows.length + 22}`, role: "img", "aria-label": names.join(" and ") });
  rows.forEach((row, k) => {
    root.append(svg("text", { x: 190, y: h * k + 16, "text-anchor": "end" }, row.name));
    row.values.forEach((v, j) => root.append(svg("rect", { class: j ? "bar second" : "bar", x: 198, y: h * k + 3 + 11 * j, width: Math.max(0.5, 250 * v), height: 10 }, svg("title", {}, `${row.name}, ${names[j]}: ${row.texts[j]}`))));
  });
  names.forEach((name, j) => root.append(svg("rect", { class: j ? "bar second" : "bar", x: 198 + 110 * j, y: h * rows.length + 8, width: 10, height: 10 }),
    svg("text", { x: 212 + 110 * j, y: h * rows.length + 17 }, name)));
  target.replaceChildren(root);
}

function drawRest() {
  const rows = data.importance, most = Math.max(1, ...rows.flatMap((row) => [row.accuracy, row.energy]));
  bars($("#genes"), rows.map((row) => ({ name: row.gene, values: [row.accuracy / most, row.energy / most].map((v) => Math.max(0, v)), texts: [row.accuracy, row.energy].map((v) => v.toFixed(3)) })), [data.metric, "log energy"]);
  $("#genes-note").textContent = rows.length ? "Decrease of R² of a forest that predicts a candidate from its genes, when the values of one gene are shuffled (permutation importance). " +
    `R² without shuffling: ${data.metric} ${rows[0].accuracy_r2.toFixed(2)}, log energy ${rows[0].energy_r2.toFixed(2)}; near 0, nothing can be read from the bars. A search does not draw its candidates at random, so read it as a description.` : "Too few candidates.";
  lines($("#training"), data.trainings.map((t) => ({ name: t.network, points: t.steps.map((s, k) => [s, t.loss[k]]) })), { x: { label: "step" }, y: { label: "training loss" }, title: "Training curves" });
  if (!data.retrained.length) $("#retrained").replaceChildren(html("p", { class: "note" }, "Nothing was retrained yet."));
  else table($("#retrained"), ["network", "weights", `test ${data.metric}`, "energy", "seeds"], data.retrained.map((r) => [r.architecture_id, r.way, percent(r.test_accuracy_mean) + (r.test_accuracy_deviation === null ? "" : ` ± ${(100 * r.test_accuracy_deviation).toFixed(2)}`), joules(r.energy_mj_mean), r.seeds]));
  drawExits();
  $("#provenance").textContent = data.provenance;
}

function drawExits() { // of one convention, because the file has energies and no counts
  const e = data.early_exit;
  if (!e) return $("#exits").replaceChildren(html("p", { class: "note" }, "Not measured. Write it with: autospike early-exit RUN"));
  const unit = Math.max(...e.energy_mj) >= 1 ? ["mJ", 1] : ["µJ", 1000], points = (values) => [{ name: "exported subnet", points: e.margin.map((m, k) => [m, values[k]]),
    labels: e.margin.map((m, k) => `margin ${m}: ${percent(e.accuracy[k])}, mean T ${e.mean_time_steps[k].toFixed(2)}, ${joules(e.energy_mj[k])}`) }];
  const x = { label: "confidence margin at which an image stops" };
  lines($("#exits"), points(e.accuracy), { x, y: { label: "accuracy" }, title: "Accuracy against the confidence margin" });
  lines($("#exit-energy"), points(e.energy_mj.map((mj) => mj * unit[1])), { x, y: { label: `energy per image (${unit[0]})` }, title: "Energy against the confidence margin" });
  $("#exits-note").textContent = `${e.images} images of the ${e.split} split. Energies are estimates under ${e.convention}: the mean energy of each step times the share of images that still run. Hover for the mean T.`;
}

// Start ------------------------------------------------------------------------------------------------------------------------

function fill(select, names, value) { select.replaceChildren(...names.map(([name, text]) => html("option", { value: name }, text))); select.value = value; }

function redraw() { drawFront(); drawSearch(); if (chosen !== null) drawCandidate(); }

function show(loaded) {
  const first = data === null, id = chosen === null ? null : data.candidates.id[chosen];
  data = loaded;
  $("h1").textContent = data.title;
  $("#subtitle").textContent = data.subtitle;
  OBJECTIVES.accuracy.label = `${data.metric} on the search split`;
  for (const own of data.objectives.own) OBJECTIVES[own.name] = { ...own, value: (i) => data.objectives.own.find((o) => o.name === own.name).values[i] ?? NaN };
  if (first) {
    fill($("#convention"), data.conventions.map((c) => [c.name, c.name]), data.convention);
    fill($("#costs"), [["", "of the convention"], ...data.costs.map((c) => [c.name, `${c.name}: ${c.pj_per_mac} and ${c.pj_per_ac} pJ`])], "");
    const names = Object.keys(OBJECTIVES).map((name) => [name, OBJECTIVES[name].label]);
    fill($("#x"), names, data.objectives.x); fill($("#y"), names, data.objectives.y);
    for (const select of document.querySelectorAll("select")) select.addEventListener("change", redraw);
  }
  const kept = data.candidates.id.indexOf(id === null ? data.selected : id), on = front(OBJECTIVES.energy, OBJECTIVES.accuracy);
  chosen = kept >= 0 ? kept : on[on.length - 1];
  redraw(); drawRest();
  document.body.dataset.ready = "true";
}

async function embedded() {
  const bytes = Uint8Array.from(atob($("#data").textContent.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function poll() {
  const answer = await fetch("data.json").catch(() => null);
  if (answer && answer.ok) show(await answer.json());
  else if (answer) $("#subtitle").textContent = await answer.text();
  setTimeout(poll, 5000);
}

$("#theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
if (document.body.dataset.live) poll(); else embedded().then(show);
