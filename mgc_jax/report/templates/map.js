"use strict";
// Draws the points of the page's data on a canvas. Text from the data goes into the page as text, never as markup.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const number = data.x.length;
const element = (id) => document.getElementById(id);
const canvas = element("canvas"), context = canvas.getContext("2d", { alpha: false }), stage = element("stage"), tip = element("tip");
const search = element("search"), lassoButton = element("lasso"), colour = element("colour");

// What a point can be coloured by: names, and the number of each point's name.
const wrong = data.genre.map((genre, i) => (genre === data.predicted[i] ? 0 : 1));
const schemes = {
  genre: { title: "Genre", names: data.genres, of: data.genre },
  predicted: { title: "Predicted genre", names: data.genres, of: data.predicted },
  split: { title: "Split", names: data.splits, of: data.split },
  error: { title: "Error", names: ["right", "wrong"], of: wrong, swatches: [5, 3 + data.colours.length] },
};
for (const scheme of Object.values(schemes)) {
  scheme.hidden = new Set();
  scheme.counts = scheme.names.map(() => 0);
  for (const name of scheme.of) scheme.counts[name]++;
}
let scheme = schemes.genre;

const shown = new Uint8Array(number).fill(1);  // not hidden by a legend
const marked = new Uint8Array(number);  // found, or chosen with the lasso
let shownCount = number, markedCount = 0, found = null, chosen = null, current = -1, sprites = [], ratio = 1;
let width = 0, height = 0, scale = 1, left = 0, top = 0, minimum = 1;  // a point lies at left + scale * x, top - scale * y
let path = null, lassoing = false, drawing = 0;
const words = [];  // of each point in lower case, made at the first search

// ---- Markers: a colour for eight names, another shape for the next eight, so that neither carries all.
function marker(target, index, size) {
  const half = size / 2, shape = Math.floor(index / data.colours.length) % 4;
  target.fillStyle = data.colours[index % data.colours.length];
  target.strokeStyle = "#fff";
  target.lineWidth = size / 10;
  target.beginPath();
  if (shape === 0) target.arc(half, half, half * 0.78, 0, 7);
  if (shape === 1) { target.moveTo(half, 0); target.lineTo(size, size * 0.88); target.lineTo(0, size * 0.88); target.closePath(); }
  if (shape === 2) target.rect(size * 0.15, size * 0.15, size * 0.7, size * 0.7);
  if (shape === 3) { target.moveTo(half, 0); target.lineTo(size, half); target.lineTo(half, size); target.lineTo(0, half); target.closePath(); }
  target.fill();
  target.stroke();
}

function picture(index, size) {
  const own = document.createElement("canvas");
  own.width = own.height = Math.round(size * ratio);
  marker(own.getContext("2d"), index, own.width);
  return own;
}

const swatch = (name) => (scheme.swatches ? scheme.swatches[name] : name);
const pointSize = () => Math.min(14, (number > 5000 ? 6 : 8) * Math.max(1, Math.sqrt(scale / minimum) * 0.9));

// ---- Drawing: markers are written into the pixels of an image, which takes a tenth of the time of as many drawImage.
// The image is larger than the canvas by a marker on each side, so that none needs clipping.
const MARGIN = 32;
let image = null, pixels = null, stride = 0;

function sprite(index, size, strength) {  // the pixels of a marker: where, and which colour with which weight of 256
  const own = document.createElement("canvas");
  own.width = own.height = size;
  const target = own.getContext("2d");
  marker(target, index, size);
  const { data: rgba } = target.getImageData(0, 0, size, size), offset = [], value = [], weight = [];
  for (let at = 0; at < size * size; at++) {
    const alpha = rgba[4 * at + 3];
    if (alpha < 8) continue;
    const [red, green, blue] = [0, 1, 2].map((channel) => Math.round(255 + strength * (rgba[4 * at + channel] - 255)));
    offset.push(Math.floor(at / size) * stride + at % size);
    value.push((255 << 24 | blue << 16 | green << 8 | red) >>> 0);
    weight.push(alpha > 247 ? 256 : alpha);
  }
  return { offset: Int32Array.from(offset), value: Uint32Array.from(value), weight: Int32Array.from(weight) };
}

function stamp({ offset, value, weight }, place) {
  for (let k = 0; k < offset.length; k++) {
    const at = place + offset[k], w = weight[k];
    if (w === 256) { pixels[at] = value[k]; continue; }
    const over = value[k], under = pixels[at], v = 256 - w;
    pixels[at] = (0xff000000 | ((over & 0xff00ff) * w + (under & 0xff00ff) * v >>> 8) & 0xff00ff | ((over & 0xff00) * w + (under & 0xff00) * v >>> 8) & 0xff00) >>> 0;
  }
}

function draw() {
  drawing = 0;
  const size = Math.max(3, Math.round(pointSize() * ratio)), half = size / 2, key = [size, stride, colour.value].join();
  if (sprites.key !== key) {
    sprites = [0.15, 1].map((strength) => scheme.names.map((_, name) => sprite(swatch(name), size, strength)));
    sprites.key = key;
  }
  pixels.fill(0xffffffff);
  const narrowed = found !== null || chosen !== null, { x: xs, y: ys } = data, names = scheme.of;
  for (const pass of narrowed ? [0, 1] : [1]) {
    for (let i = 0; i < number; i++) {
      if (!shown[i] || (narrowed && marked[i] !== pass)) continue;
      const x = Math.round((left + scale * xs[i]) * ratio - half), y = Math.round((top - scale * ys[i]) * ratio - half);
      if (x > -size && y > -size && x < canvas.width && y < canvas.height) stamp(sprites[pass][names[i]], (y + MARGIN) * stride + x + MARGIN);
    }
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.putImageData(image, -MARGIN, -MARGIN);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (current >= 0 && shown[current]) {
    context.beginPath();
    context.arc(left + scale * data.x[current], top - scale * data.y[current], pointSize() / 2 + 4, 0, 7);
    context.lineWidth = 5; context.strokeStyle = "#fff"; context.stroke();
    context.lineWidth = 2.5; context.strokeStyle = "#1b1f24"; context.stroke();
  }
  if (path) {
    context.beginPath();
    path.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.fillStyle = "#0072b222"; context.fill();
    context.lineWidth = 2; context.setLineDash([6, 4]); context.strokeStyle = "#0072b2"; context.stroke(); context.setLineDash([]);
  }
  performance.mark("map drawn");
}
const redraw = () => { if (!drawing) drawing = requestAnimationFrame(draw); };

function wholeMap() {
  const margin = 18, spanX = greatest(data.x), spanY = greatest(data.y);
  scale = minimum = Math.min((width - 2 * margin) / (spanX || data.steps), (height - 2 * margin) / (spanY || data.steps));
  left = (width - scale * spanX) / 2;
  top = (height + scale * spanY) / 2;
  redraw();
}
const greatest = (values) => values.reduce((most, value) => Math.max(most, value), 0);

function zoom(factor, x = width / 2, y = height / 2) {
  const next = Math.min(Math.max(scale * factor, minimum / 2), minimum * 400);
  left = x - (x - left) * next / scale;
  top = y - (y - top) * next / scale;
  scale = next;
  redraw();
}

function resize() {
  const before = width;
  width = stage.clientWidth; height = stage.clientHeight; ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  stride = canvas.width + 2 * MARGIN;
  image = context.createImageData(stride, canvas.height + 2 * MARGIN);
  pixels = new Uint32Array(image.data.buffer);
  if (!before) { wholeMap(); } else { draw(); }
}

// ---- One clip
const name = (list, i) => data[list + "s"][data[list][i]];
const titleOf = (i) => data.title[i] || `track ${data.track[i]}`;

function describe(into, i, long) {
  const line = (text, strong) => { const p = document.createElement("p"); (strong ? p.appendChild(document.createElement("strong")) : p).textContent = text; into.append(p); };
  into.replaceChildren();
  line(titleOf(i), true);
  if (name("artist", i)) line(name("artist", i));
  if (long && name("album", i)) line(`album ${name("album", i)}`);
  line(`genre: ${data.genres[data.genre[i]]}`);
  line(`predicted: ${data.genres[data.predicted[i]]}${wrong[i] ? " (wrong)" : ""}`);
  if (long) line(`${data.splits[data.split[i]]}, track ${data.track[i]}`);
}

function choose(i, x, y) {
  if (i !== current) {
    current = i;
    if (i >= 0) describe(element("clip"), i, true);
    redraw();
  }
  tip.hidden = i < 0 || x === undefined;
  if (tip.hidden) return;
  describe(tip, i, false);
  tip.style.left = `${Math.max(4, Math.min(x + 14, width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight < height ? y + 18 : Math.max(4, y - tip.offsetHeight - 12)}px`;
}

function nearest(x, y) {
  let best = -1, least = 15 ** 2;
  for (let i = 0; i < number; i++) {
    if (!shown[i]) continue;
    const dx = left + scale * data.x[i] - x, dy = top - scale * data.y[i] - y, distance = dx * dx + dy * dy;
    if (distance <= least) { least = distance; best = i; }
  }
  return best;
}

function show(i) {  // moves the map so that a clip is in view
  const x = left + scale * data.x[i], y = top - scale * data.y[i];
  if (x < 20 || x > width - 20) left += width / 2 - x;
  if (y < 20 || y > height - 20) top += height / 2 - y;
  choose(i);
  redraw();
}

function step(by) {  // to the next clip that is found, chosen or in view
  const candidate = (i) => shown[i] && (found || chosen ? marked[i] : left + scale * data.x[i] > 0 && left + scale * data.x[i] < width && top - scale * data.y[i] > 0 && top - scale * data.y[i] < height);
  for (let k = 1; k <= number; k++) {
    const i = (((current < 0 && by < 0 ? 0 : current) + by * k) % number + number) % number;
    if (candidate(i)) return show(i);
  }
}

// ---- Search, lasso, legend
function mark() {
  marked.fill(0);
  for (let i = 0; i < number; i++) if ((!found || found[i]) && (!chosen || chosen[i])) marked[i] = 1;
  count();
}

function count() {
  shownCount = markedCount = 0;
  for (let i = 0; i < number; i++) if (shown[i]) { shownCount++; markedCount += marked[i]; }
  const parts = [`${shownCount.toLocaleString("en")} of ${number.toLocaleString("en")} clips shown`];
  if (found || chosen) parts.push(`${markedCount.toLocaleString("en")} ${chosen ? "chosen" : "found"}`);
  element("status").textContent = parts.join(", ");
  listMatches();
  redraw();
}

function find() {
  const text = search.value.trim().toLowerCase();
  if (text && !words.length) for (let i = 0; i < number; i++) words.push(`${data.title[i]}\n${name("artist", i)}\n${name("album", i)}\n${data.track[i]}`.toLowerCase());
  found = text ? words.map((own) => own.includes(text)) : null;
  mark();
}

function listMatches() {
  const list = element("matches"), most = 30;
  list.replaceChildren();
  element("found").hidden = !found;
  if (!found) return;
  for (let i = 0, there = 0; i < number && there < most; i++) {
    if (!marked[i] || !shown[i]) continue;
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = [titleOf(i), name("artist", i)].filter(Boolean).join(" \u2013 ");
    button.addEventListener("click", () => show(i));
    item.append(button);
    list.append(item);
    there++;
  }
  if (markedCount > most) { const item = document.createElement("li"); item.className = "soft"; item.textContent = `and ${(markedCount - most).toLocaleString("en")} more`; list.append(item); }
}

function hide() {
  const every = Object.values(schemes);
  for (let i = 0; i < number; i++) shown[i] = every.every((one) => !one.hidden.has(one.of[i])) ? 1 : 0;
  count();
}

function listNames() {
  element("legend-title").textContent = scheme.title;
  element("legend").replaceChildren(...scheme.names.map((text, index) => {
    const item = document.createElement("li"), label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !scheme.hidden.has(index);
    box.addEventListener("change", () => { scheme.hidden[box.checked ? "delete" : "add"](index); hide(); });
    const words = document.createElement("span"), size = document.createElement("small");
    words.textContent = text;
    size.textContent = scheme.counts[index].toLocaleString("en");
    label.append(box, picture(swatch(index), 16), words, size);
    item.append(label);
    return item;
  }));
}

function setLasso(on) {
  lassoing = on;
  lassoButton.setAttribute("aria-pressed", String(on));
  canvas.classList.toggle("lasso", on);
}

function closeLasso() {
  const inside = (x, y) => {
    let odd = false;
    for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
      const [xi, yi] = path[i], [xj, yj] = path[j];
      if (yi > y !== yj > y && x < (xj - xi) * (y - yi) / (yj - yi) + xi) odd = !odd;
    }
    return odd;
  };
  chosen = path.length > 2 ? data.x.map((x, i) => shown[i] === 1 && inside(left + scale * x, top - scale * data.y[i])) : null;
  path = null;
  setLasso(false);
  mark();
}

function download() {
  const quote = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const lines = ["track_id,title,artist,album,genre,predicted,split"];
  for (let i = 0; i < number; i++) {
    if (!shown[i] || ((found || chosen) && !marked[i])) continue;
    const row = [data.track[i], data.title[i], name("artist", i), name("album", i), data.genres[data.genre[i]], data.genres[data.predicted[i]], data.splits[data.split[i]]];
    lines.push(row.map(quote).join(","));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "clips.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- Pointer, wheel, keys
const pointers = new Map();
const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  if (pointers.size > 1) path = null;
  else if (lassoing || event.shiftKey) { path = [at(event)]; choose(-1); }
  canvas.classList.toggle("moving", !path);
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = at(event), before = pointers.get(event.pointerId);
  if (!before) { choose(nearest(x, y), x, y); return; }
  if (path) { path.push([x, y]); redraw(); return; }
  tip.hidden = true;
  const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  if (others.length) {
    const [[ox, oy]] = others;
    zoom(Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy)), ox, oy);
  } else { left += x - before[0]; top += y - before[1]; redraw(); }
  pointers.set(event.pointerId, [x, y]);
});
const release = (event) => {
  if (!pointers.delete(event.pointerId)) return;
  canvas.classList.remove("moving");
  if (path) closeLasso();
};
canvas.addEventListener("pointerup", (event) => { const tapped = !path; release(event); if (tapped && event.pointerType !== "mouse") { const [x, y] = at(event); choose(nearest(x, y), x, y); } });
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("wheel", (event) => { event.preventDefault(); tip.hidden = true; zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), ...at(event)); }, { passive: false });
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    ArrowLeft: () => { left += 60; redraw(); }, ArrowRight: () => { left -= 60; redraw(); },
    ArrowUp: () => { top += 60; redraw(); }, ArrowDown: () => { top -= 60; redraw(); },
    "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: wholeMap, Home: wholeMap,
    n: () => step(1), p: () => step(-1), l: () => setLasso(!lassoing), L: () => setLasso(!lassoing),
    Escape: () => { path = chosen = null; setLasso(false); mark(); },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

element("controls").addEventListener("submit", (event) => event.preventDefault());
element("closer").addEventListener("click", () => zoom(1.5));
element("farther").addEventListener("click", () => zoom(1 / 1.5));
element("whole").addEventListener("click", wholeMap);
element("download").addEventListener("click", download);
lassoButton.addEventListener("click", () => { if (chosen) { chosen = null; mark(); } setLasso(!lassoing); });
colour.addEventListener("change", () => { scheme = schemes[colour.value]; listNames(); redraw(); });
search.addEventListener("input", find);
element("all").addEventListener("click", () => { for (const one of Object.values(schemes)) one.hidden.clear(); listNames(); hide(); });
element("none").addEventListener("click", () => { scheme.names.forEach((_, index) => scheme.hidden.add(index)); listNames(); hide(); });
new ResizeObserver(resize).observe(stage);
colour.value = "genre";
search.value = "";
resize();
listNames();
mark();
})();
