"use strict";
// Text from files and their names only ever becomes text nodes and attributes, never markup.

const settings = JSON.parse(document.body.dataset.settings);
const SHOWN = 5; // genres of a list or chart
const DASHES = ["", "9 3", "2 3", "9 3 2 3", "5 5"]; // lines differ without colour, too
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

let files = []; // of the drop that is shown: [name with folders, File]
let running = null; // AbortController of the request
let player = null;
let address = ""; // blob: of the player's file

function make(tag, attributes = {}, ...children) {
  const element = tag in { svg: 0, path: 0, line: 0, title: 0 } ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const percent = (p) => `${(100 * p).toFixed(p < 0.0995 && p >= 0.0005 ? 1 : 0)}\u00a0%`;
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const strongest = (probabilities) =>
  probabilities.map((p, genre) => [p, genre]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, SHOWN);
const isAudio = (name) => settings.suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));

// ---- Files

// In folders only audio is meant; a file that was named itself is sent, and the answer says why it cannot be used.
function take(found) {
  const chosen = found.filter(([name]) => !name.includes("/") || (isAudio(name) && !/(^|\/)\./.test(name)));
  chosen.sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true }));
  const bytes = chosen.reduce((sum, [name, file]) => sum + (isAudio(name) ? file.size : 0), 0);
  if (!chosen.length) {
    problem([`There is no audio. Names of audio files end in ${settings.suffixes.join(", ")}.`]);
  } else if (chosen.length > settings.mostFiles) {
    problem([`These are ${chosen.length} files, at most ${settings.mostFiles} can be taken: choose fewer.`]);
  } else if (bytes > settings.mostBytes) {
    problem([`These files have ${(bytes / 1e6).toFixed(0)} MB together, at most ${(settings.mostBytes / 1e6).toFixed(0)} MB can be taken: choose fewer, or start the page with a larger --max_mb.`]);
  } else {
    classify(chosen);
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = [];
  for (const entry of entries) await walk(entry, "", found);
  return entries.length ? found : null; // text was dropped, or a picture of another page
}

async function walk(entry, folder, found) {
  if (entry.isFile) {
    found.push([folder + entry.name, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    return;
  }
  const reader = entry.createReader();
  for (;;) { // it gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    for (const inner of some) await walk(inner, `${folder}${entry.name}/`, found);
    if (found.length > 100 * settings.mostFiles) break;
  }
}

// ---- The request

async function classify(chosen) {
  running?.abort();
  const mine = (running = new AbortController());
  clear();
  at("work").hidden = false;
  progress("Sending the files ...");
  try {
    const list = chosen.map(([name, file]) => ({ name, size: isAudio(name) ? file.size : 0 }));
    const body = new Blob([
      JSON.stringify({ bags: at("bags").value, files: list }), "\n",
      ...chosen.filter(([name]) => isAudio(name)).map(([, file]) => file),
    ]);
    const headers = { "content-type": "application/octet-stream" };
    const response = await fetch("/classify", { method: "POST", body, headers, signal: mine.signal });
    if (!response.ok) throw new Error((await response.json()).error);
    const last = await lines(response, (line) => mine === running && told(line));
    if (last.error) throw new Error(last.error);
    if (mine !== running) return;
    files = chosen;
    show(last.result);
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    problem([error instanceof TypeError ? "The page's server does not answer, or a file changed while it was read." : `${error.message}.`]);
  } finally {
    if (mine === running) at("work").hidden = true;
  }
}

async function lines(response, each) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
    for (let end; (end = text.indexOf("\n")) >= 0; text = text.slice(end + 1)) {
      const line = JSON.parse(text.slice(0, end));
      if (line.result || line.error) return line;
      each(line);
    }
  }
  throw new Error("The page's server ended before it was done");
}

function told(line) {
  if (!line.of) progress("Decoding ...");
  else progress(`${line.done} of ${line.of} songs, ${line.windows} windows so far`, line.done / line.of);
}

function progress(text, share) {
  if (at("progress").textContent !== text) at("progress").textContent = text;
  if (share === undefined) at("bar").removeAttribute("value");
  else at("bar").value = share;
}

function problem(sentences) {
  at("problem").replaceChildren(
    sentences.length === 1 ? sentences[0] : make("ul", {}, ...sentences.map((text) => make("li", {}, text))));
  at("problem").hidden = !sentences.length;
}

function clear() {
  problem([]);
  stopPlayer();
  at("albums").replaceChildren();
  at("song").hidden = true;
  document.querySelector("main").classList.remove("both");
}

// ---- Results

function show(result) {
  problem(result.failed.map((one) => `Not used: ${one.name}: ${one.reason}.`));
  const single = result.songs.length === 1;
  document.querySelector("main").classList.toggle("both", result.songs.length > 1);
  if (!single) at("albums").replaceChildren(...albumCards(result));
  if (result.songs.length) showSong(result, 0, single);
}

function titleOf(song) {
  return song.title || files[song.file][1].name;
}

function bars(probabilities, genres) {
  const rows = strongest(probabilities).map(([p, genre]) =>
    make("tr", {}, make("th", { scope: "row" }, genres[genre]), bar(p), make("td", { class: "number" }, percent(p))));
  return make("table", { class: "genres" }, make("tbody", {}, ...rows));
}

function bar(share) {
  const filled = make("i");
  filled.style.width = `${100 * share}%`;
  return make("td", { class: "bar", "aria-hidden": "true" }, filled);
}

function albumCards(result) {
  const alone = result.albums.filter((album) => album.songs.length === 1).flatMap((album) => album.songs);
  const cards = result.albums.filter((album) => album.songs.length > 1).map((album) => albumCard(album, result));
  if (alone.length) cards.push(make("section", { class: "album" }, make("h2", {}, "Songs alone"), songTable(alone, result, false)));
  return cards;
}

function albumCard(album, result) {
  const songs = album.songs.map((number) => result.songs[number]);
  const [name, another] = new Set(songs.map((song) => [song.artist, song.album].filter(Boolean).join(": ")));
  const [folder, elsewhere] = new Set(songs.map((song) => files[song.file][0].split("/").slice(0, -1).join("/")));
  const heading = (another === undefined && name) || (elsewhere === undefined && folder) || "These songs";
  const [p, genre] = strongest(album.probabilities)[0];
  const sum = album.probabilities.reduce((a, b) => a + b, 0);
  const note = make("p", { class: "soft" }, "This model scores each genre of an album for itself: the scores do not add up to 100\u00a0%.");
  return make("section", { class: "album" },
    make("h2", {}, heading),
    make("p", {}, "Genre of the album: ", make("b", { class: "genre" }, result.genres[genre]), ` ${percent(p)}`),
    bars(album.probabilities, result.genres), ...(Math.abs(sum - 1) > 0.02 ? [note] : []),
    make("h3", {}, `Its ${songs.length} songs`),
    songTable(album.songs, result, songs.every((song) => song.attention !== null)));
}

function songTable(numbers, result, weighed) {
  const rows = numbers.map((number) => {
    const song = result.songs[number];
    const [p, genre] = strongest(song.probabilities)[0];
    const open = make("button", { type: "button", class: "title", onclick: () => showSong(result, number, true) }, titleOf(song));
    const weight = weighed ? [bar(song.attention), make("td", { class: "number" }, percent(song.attention))] : [];
    return make("tr", { "data-song": number }, make("td", {}, open), make("td", {}, `${result.genres[genre]} ${percent(p)}`), ...weight);
  });
  const heads = ["song", "its own genre"].map((text) => make("th", { scope: "col" }, text));
  if (weighed) heads.push(make("th", { scope: "col", colspan: 2 }, "attention"));
  return make("table", { class: "songs" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

function showSong(result, number, jump) {
  const song = result.songs[number];
  const seconds = Math.max(song.seconds, song.start.at(-1) + 0.1);
  stopPlayer();
  for (const row of document.querySelectorAll("[data-song]")) {
    const chosen = row.dataset.song === String(number);
    row.classList.toggle("chosen", chosen);
    row.querySelector("button").setAttribute("aria-current", chosen);
  }
  address = URL.createObjectURL(files[song.file][1]);
  player = make("audio", { controls: "", preload: "metadata", src: address });
  const cannot = make("p", { class: "soft", hidden: "" }, "This browser cannot play this kind of file.");
  player.addEventListener("error", () => { player.hidden = true; cannot.hidden = false; });
  const order = strongest(song.probabilities).map(([, genre]) => genre);
  const [best, genre] = strongest(song.probabilities)[0];
  const [timeline, now] = makeTimeline(song, result, order, seconds);
  const facts = [["artist", song.artist], ["album", song.album], ["genre in the tags", song.tagged], ["length", clock(song.seconds)],
    ["file", files[song.file][0]], ["damage", song.damage]].filter(([, text]) => text);
  at("song").replaceChildren(
    make("h2", {}, titleOf(song)),
    make("p", {}, "Genre of the song: ", make("b", { class: "genre" }, result.genres[genre]), ` ${percent(best)}`),
    player, cannot, timeline,
    make("div", { class: "ticks", "aria-hidden": "true" }, ...ticks(seconds)), now,
    make("ul", { class: "legend" }, ...order.map((genre, i) => make("li", {}, make("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" },
      make("line", { x1: 0, x2: 30, y1: 5, y2: 5, ...stroke(i) })), result.genres[genre]))),
    make("h3", {}, "Strongest genres of the song"), bars(song.probabilities, result.genres),
    make("h3", {}, "What the file says"),
    make("dl", {}, ...facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
  at("song").hidden = false;
  if (jump) at("song").focus({ preventScroll: true });
  if (jump && at("song").getBoundingClientRect().top > 0.6 * innerHeight) at("song").scrollIntoView();
}

const stroke = (i) => ({ stroke: settings.colours[i], "stroke-dasharray": DASHES[i] });

function makeTimeline(song, result, order, seconds) {
  const ends = [...song.start.slice(1), Math.min(song.start.at(-1) + result.window, seconds)];
  const curves = order.map((genre, i) => {
    const steps = song.windows.map((p, w) => `${w ? "L" : "M"}${song.start[w]},${1 - p[genre]}L${ends[w]},${1 - p[genre]}`);
    return make("path", { d: steps.join(""), ...stroke(i) });
  });
  const box = { viewBox: `0 0 ${seconds} 1`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const half = make("line", { x1: 0, x2: seconds, y1: 0.5, y2: 0.5 });
  const playhead = make("div", { id: "playhead" });
  const now = make("p", { id: "now", class: "soft" });
  const levels = make("div", { class: "levels", "aria-hidden": "true" }, ...["100 %", "50 %", ""].map((text) => make("span", {}, text)));
  const picture = song.picture ? [make("img", { src: song.picture, alt: "Spectrogram: time to the right, frequency upwards" })] : [];
  const timeline = make("div", { id: "timeline", role: "slider", tabindex: 0, "aria-label": "Position in the song",
    "aria-valuemin": 0, "aria-valuemax": Math.round(seconds) }, ...picture, make("svg", box, half, ...curves.reverse()), levels, playhead);
  const mine = player;
  const move = () => {
    const time = Math.min(mine.currentTime, seconds);
    playhead.style.left = `${(100 * time) / seconds}%`;
    const window = Math.max(0, song.start.findLastIndex((start) => start <= time));
    const [p, genre] = strongest(song.windows[window])[0];
    const text = `At ${clock(time)}: ${result.genres[genre]} ${percent(p)}`;
    now.textContent = text;
    timeline.setAttribute("aria-valuenow", Math.round(time));
    timeline.setAttribute("aria-valuetext", text);
  };
  const seek = (time) => { mine.currentTime = Math.min(Math.max(time, 0), seconds); move(); };
  const follow = () => { if (mine === player) { move(); if (!mine.paused) requestAnimationFrame(follow); } };
  mine.addEventListener("play", follow);
  mine.addEventListener("seeked", move);
  mine.addEventListener("timeupdate", move);
  timeline.addEventListener("click", (event) => {
    const { left, width } = timeline.getBoundingClientRect();
    seek((seconds * (event.clientX - left)) / width);
  });
  timeline.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 5, ArrowUp: 5, ArrowLeft: -5, ArrowDown: -5, PageUp: 30, PageDown: -30, Home: -Infinity, End: Infinity }[event.key];
    if (step !== undefined) seek(mine.currentTime + step);
    else if (event.key === " ") mine.paused ? mine.play() : mine.pause();
    else return;
    event.preventDefault();
  });
  move();
  return [timeline, now];
}

function ticks(seconds) {
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((step) => seconds / step <= 6) ?? 7200;
  const marks = [];
  for (let time = 0; time <= 0.97 * seconds; time += step) {
    const mark = make("span", {}, clock(time));
    mark.style.left = `${(100 * time) / seconds}%`;
    marks.push(mark);
  }
  return marks;
}

function stopPlayer() {
  player?.pause();
  player = null;
  if (address) URL.revokeObjectURL(address);
  address = "";
}

// ---- What the user does

for (const [id, nameOf] of [["songs", (file) => file.name], ["folder", (file) => file.webkitRelativePath]]) {
  at(id).addEventListener("change", (event) => {
    const found = [...event.target.files].map((file) => [nameOf(file), file]);
    event.target.value = ""; // the same files can be chosen again
    if (found.length) take(found);
  });
}
at("cancel").addEventListener("click", () => { running?.abort(); running = null; at("work").hidden = true; });
let inside = 0; // elements that a drag is over
addEventListener("dragenter", () => { inside++; document.body.classList.add("over"); });
addEventListener("dragleave", () => { if (--inside <= 0) document.body.classList.remove("over"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("over");
  try {
    const found = await dropped(event.dataTransfer);
    if (found) take(found);
  } catch (error) {
    problem([`The files cannot be read: ${error.message}`]);
  }
});
