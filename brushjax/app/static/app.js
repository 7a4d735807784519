// The editor: what is on the page, and what it asks for.

import * as api from "./api.js";
import { Mask, fromBase64, pixels } from "./mask.js";
import * as tree from "./tree.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const state = { turns: [], at: null, job: null, session: 0 };
const wanted = { local: "paint over it", removal: "paint over it", background: "paint over the background" };
let offered, planned = "", last = null, chance = null, asking = null, shown = "", comparing = false, side = false;
let pictures = new Map(), thumbs = new Map(), quiet;

const mask = new Mask($("mask"), () => { veil(false); later(cover); });
const view = new View($("stage"), $("board"), mask, $("draft"), $("ring"));

// --- small things

function later(what) { cancelAnimationFrame(what.frame); what.frame = requestAnimationFrame(what); }
function press(buttons, chosen) { for (const b of buttons) b.setAttribute("aria-pressed", String(b === chosen)); }
function pressed(id, on) { $(id).setAttribute("aria-pressed", String(on)); }
function say(text, bad = false) {
  $("toast").textContent = text; $("toast").hidden = !text; $("toast").classList.toggle("bad", bad);
  clearTimeout(quiet); quiet = setTimeout(() => { $("toast").hidden = true; }, bad ? 9000 : 4000);
}
async function tried(work) {
  try { return await work(); } catch (error) {
    if (error.name === "AbortError") return undefined;
    say(error.message, true);
    if (error.status === 410) { sessionStorage.removeItem("room"); setTimeout(() => location.reload(), 1500); }
    return undefined;
  }
}
const category = () => document.querySelector("[data-category][aria-pressed=true]").dataset.category;
const count = () => Number(document.querySelector("[data-count][aria-pressed=true]").dataset.count);
const busy = () => Boolean(state.job && (state.job.state === "waiting" || state.job.state === "running"));
const known = (number) => state.turns[number];

async function bitmap(number) {
  if (!pictures.has(number)) {
    pictures.set(number, api.blob(`turn/${number}/picture`).then(createImageBitmap));
    if (pictures.size > 12) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(number);
}
function thumb(number) {
  if (!thumbs.has(number)) thumbs.set(number, api.blob(`turn/${number}/thumb`).then(URL.createObjectURL));
  return thumbs.get(number);
}

// A new result is seen without the mask, until that is touched.
function veil(on) { document.body.classList.toggle("fresh", on); }

// --- the picture

async function open(file) {
  if (!file) return;
  say("opening …");
  if (await tried(() => api.put("picture", file))) say("");
}

function begun() {
  for (const url of thumbs.values()) url.then(URL.revokeObjectURL, () => {});
  pictures = new Map(); thumbs = new Map(); planned = ""; last = null; shown = "";
  mask.resize(0, 0); $("again").disabled = true;
  hideChance(); compare(false); results(false);
}

async function show() {
  const key = `${state.session}/${state.at}`;
  if (state.at === null || key === shown) return;
  shown = key;
  const image = await tried(() => bitmap(state.at));
  if (!image || shown !== key) return;
  const canvas = $("picture");
  const fresh = mask.width !== image.width || mask.height !== image.height;
  canvas.width = image.width; canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
  if (fresh) { mask.resize(image.width, image.height); view.resize(image.width, image.height); }
  document.body.classList.remove("empty");
  if (comparing) compare(true);
}

async function compare(on) {
  const parent = state.at === null ? null : known(state.at)?.parent;
  if (on && (parent === null || parent === undefined)) { if (!comparing) { say("there is nothing to compare yet"); return; } on = false; }
  comparing = on;
  document.body.classList.toggle("compare", on); pressed("compare", on);
  $("slider").hidden = !on; $("picture").style.clipPath = "";
  view.onslide = on ? slide : null;
  if (!on) return;
  results(false);
  const image = await tried(() => bitmap(parent));
  if (!image) return;
  $("before").width = image.width; $("before").height = image.height;
  $("before").getContext("2d").drawImage(image, 0, 0);
  slide(0.5);
}
function slide(share) {
  const part = 100 * Math.min(1, Math.max(0, share));
  $("slider").style.left = `${part}%`;
  $("picture").style.clipPath = `inset(0 0 0 ${part}%)`;
}

// --- results side by side: the turns that have the same parent

function siblings() {
  const at = known(state.at);
  if (!at) return [];
  const parent = busy() && last ? last.turn : at.parent;
  return parent === null ? [] : state.turns.filter((turn) => turn.parent === parent).slice(-4);
}
function results(on) {
  side = on; pressed("grid", on); $("results").hidden = !on;
  if (on) { compare(false); drawResults(); }
}
function drawResults() {
  const found = siblings(), waiting = busy() && state.job.parts > 1 ? state.job.parts - state.job.part : 0;
  const key = JSON.stringify([found.map((turn) => turn.number), waiting, state.at, state.session]);
  if ($("results").dataset.key === key) return;
  $("results").dataset.key = key;
  const shownNow = found.slice(-(4 - Math.min(waiting, 4)) || 0).slice(0, 4);
  const tiles = shownNow.map((turn) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas"), seed = document.createElement("small");
    button.className = turn.number === state.at ? "at" : ""; button.title = `seed ${turn.seed}`;
    seed.textContent = turn.seed;
    button.onclick = () => { results(false); go(turn.number); };
    bitmap(turn.number).then((image) => { canvas.width = image.width; canvas.height = image.height; canvas.getContext("2d").drawImage(image, 0, 0); }, () => {});
    button.append(canvas, seed);
    return button;
  });
  for (let i = 0; i < waiting && tiles.length < 4; i++) {
    const tile = document.createElement("button");
    tile.className = "wait"; tile.disabled = true; tiles.push(tile);
  }
  $("results").classList.toggle("one", tiles.length < 2);
  $("results").replaceChildren(...tiles);
}

// --- the plan

function cover() {
  const share = mask.share, kind = category(), needed = $("method").value !== "fireedit";
  const percent = share > 0 && share < 0.01 ? "< 1" : Math.round(100 * share);
  $("cover").textContent = share ? `${percent} %` : wanted[kind] || "made with the plan";
  mark("step3", share > 0 || !needed, needed && !share && Boolean(planned || $("target").value));
  mark("step2", Boolean($("object").value)); mark("step4", Boolean($("target").value)); mark("step1", Boolean(planned));
}
function mark(id, set, missing = false) { $(id).classList.toggle("set", set); $(id).classList.toggle("wanted", missing); }
function choose(kind) { press(all("[data-category]"), document.querySelector(`[data-category="${kind}"]`)); later(cover); }
function words() {
  return { instruction: $("instruction").value.trim(), category: category(), object: $("object").value.trim(),
    source_caption: $("source").value.trim(), target_caption: $("target").value.trim() };
}

async function plan() {
  const { instruction, source_caption } = words();
  if (!instruction || state.at === null) return false;
  asking?.abort(); asking = new AbortController();
  $("plan").classList.add("busy");
  const made = await tried(() => api.post("plan", { turn: state.at, instruction, source_caption }, asking.signal));
  $("plan").classList.remove("busy");
  if (!made) return false;
  planned = instruction;
  choose(made.category);
  $("object").value = made.object; $("target").value = made.target_caption;
  hideChance();
  if (made.mask) mask.take(await fromBase64(made.mask));
  else if (made.note) say(made.note, true);
  else if (!mask.share) say(made.category === "background" ? "paint over the background" : `paint over the ${made.object || "part that changes"}`);
  cover();
  return true;
}

async function find(by, more = {}) {
  $("find").disabled = true;
  const found = await tried(() => api.post("find", { ...words(), turn: state.at, by, ...more }));
  $("find").disabled = false;
  if (!found) return;
  if (found.mask) { hideChance(); mask.take(await fromBase64(found.mask)); return; }
  chance = await fromBase64(found.probability);
  $("threshold").hidden = false; drawChance();
}
function drawChance() {
  const canvas = $("chance"), { width, height } = mask, least = 2.55 * $("threshold").querySelector("input").value;
  canvas.width = width; canvas.height = height; canvas.hidden = false;
  const image = pixels(chance, width, height), { data } = image;
  for (let i = 0; i < data.length; i += 4) {
    const value = data[i], inside = value >= least;
    data[i] = inside ? 255 : 40; data[i + 1] = inside ? 77 : 90; data[i + 2] = inside ? 122 : 255; data[i + 3] = inside ? 90 + value * 0.6 : value * 0.7;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
function hideChance() { chance = null; $("chance").hidden = true; $("threshold").hidden = true; }

// --- painting

async function paint() {
  if (busy()) { await cancel(); return; }
  if (state.at === null) return;
  const text = $("instruction").value.trim();
  if (text && text !== planned && !(await plan())) return;
  if (!mask.share && $("method").value !== "fireedit") { mark("step3", false, true); say(wanted[category()] || "paint over what is to change"); return; }
  if (chance) useChance();
  begins(count());
  await send({ ...words(), turn: state.at, mask: await mask.base64(), base: $("base").value, branch: $("branch").value,
    method: $("method").value, negative_prompt: $("negative").value, seed: Number($("seed").value) || 0, count: count(),
    steps: Number($("steps_").value), guidance: Number($("guidance").value), scale: Number($("scale").value),
    blend: $("feather").getAttribute("aria-pressed") === "true" ? "feather" : "paste" });
}
async function again() {
  if (!last || busy()) return;
  const seed = (last.seed + last.count) % 2 ** 31;
  $("seed").value = seed;
  await send({ ...last, seed, count: count() });
}
// Shows that something begins, before the server says so.
function begins(parts) {
  state.job = { state: "waiting", phase: "", done: 0, steps: 0, part: 0, parts, ahead: 0 };
  working();
}
async function send(asked) {
  begins(asked.count);
  scrollTo({ top: 0, behavior: "smooth" });  // on a phone the picture is above
  last = asked; compare(false); results(asked.count > 1);
  if (!(await tried(() => api.post("paint", asked)))) { state.job = null; working(); }
}
async function cancel() {
  asking?.abort();
  if (busy()) { $("paint").querySelector("span").textContent = "stopping …"; await tried(() => api.post("cancel")); }
}
async function go(number) { if (number !== state.at) await tried(() => api.post("go", { turn: number })); }

function working() {
  const job = state.job, on = busy();
  document.body.classList.toggle("busy", on);
  const steps = on && job.steps ? (job.part + job.done / job.steps) / job.parts : 0;
  $("bar").classList.toggle("open", on && !job.steps);
  $("bar").firstElementChild.style.width = $("paint").querySelector("i").style.width = `${100 * steps}%`;
  let text = "Paint";
  if (on) {
    const which = job.parts > 1 ? ` · ${job.part + 1} of ${job.parts}` : "";
    if (job.state === "waiting") text = job.ahead ? `${job.ahead} before you` : "waiting";
    else text = job.steps ? `${job.done} / ${job.steps}${which}` : `${job.phase || "beginning"}${which}`;
    text += "  ·  cancel";
  }
  $("paint").querySelector("span").textContent = text;
  $("paint").title = on ? "Cancel (Esc)" : "Paint (Ctrl+Enter)";
}

let ended = null;
function told(now) {
  const fresh = now.session !== state.session;
  const was = busy(), length = state.turns.length;
  Object.assign(state, now);
  if (fresh) begun();
  $("warm").hidden = now.warm;
  working();
  if (was && !busy() && state.job) {
    if (state.job.state === "failed") say(state.job.error, true);
    if (state.job.state === "cancelled") say("cancelled");
    if (state.job.state === "done") veil(true);
  }
  $("again").disabled = !last || busy() || fresh;
  $("undo").disabled = state.at === null || known(state.at)?.parent === null;
  for (const button of all("[data-save]")) button.disabled = state.at === null || (button.dataset.save !== "picture" && known(state.at)?.parent === null);
  const drawn = JSON.stringify([state.session, length, state.turns.length, state.at]);
  if (ended !== drawn) { ended = drawn; tree.draw($("tree"), state, thumb, go); }
  show();
  if (side) { if (siblings().length || busy()) drawResults(); else results(false); }
}

// --- wiring

function wire() {
  $("open").onclick = $("choose").onclick = () => $("file").click();
  $("file").onchange = () => { open($("file").files[0]); $("file").value = ""; };
  for (const kind of ["dragover", "drop", "dragleave"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") open(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) { event.preventDefault(); open(file); }
  });
  for (const button of all("[data-tool]")) button.onclick = () => { compare(false); veil(false); press(all("[data-tool]"), button); view.tool = button.dataset.tool; };
  for (const button of all("[data-do]")) button.onclick = () => deeds[button.dataset.do]();
  for (const button of all("[data-category]")) button.onclick = () => choose(button.dataset.category);
  for (const button of all("[data-count]")) button.onclick = () => press(all("[data-count]"), button);
  for (const button of all("[data-save]")) button.onclick = () => save(button.dataset.save);
  for (const id of ["feather", "eye"]) $(id).onclick = () => {
    pressed(id, $(id).getAttribute("aria-pressed") !== "true");
    document.body.classList.toggle("hide", $("eye").getAttribute("aria-pressed") === "true");
  };
  $("size").oninput = () => { view.size = Number($("size").value); };
  $("ask").onsubmit = (event) => { event.preventDefault(); $("instruction").blur(); plan(); };
  for (const id of ["object", "target"]) $(id).oninput = () => later(cover);
  $("paint").onclick = paint; $("again").onclick = again;
  $("undo").onclick = () => tried(() => api.post("undo"));
  $("compare").onclick = () => compare(!comparing);
  $("grid").onclick = () => { if (side) results(false); else if (siblings().length) results(true); else say("there are no results yet"); };
  $("help").onclick = () => $("keys").showModal();
  $("find").onclick = () => find("phrase");
  $("region").onclick = () => find("region");
  view.onpick = (x, y) => find("click", { x: Math.max(0, x), y: Math.max(0, y) });
  $("threshold").querySelector("input").oninput = () => later(drawChance);
  $("threshold").querySelector("button").onclick = (event) => { event.preventDefault(); useChance(); };
  document.querySelector(".seed svg").onclick = (event) => { event.preventDefault(); $("seed").value = Math.floor(Math.random() * 2 ** 31); };
  for (const input of all(".fields input[type=range]")) {
    const told = () => { input.previousElementSibling.textContent = input.value; };
    input.oninput = told; told();
  }
  $("method").onchange = () => later(cover);
  document.addEventListener("click", (event) => { if (!event.target.closest("#save")) $("save").open = false; });
  document.addEventListener("keydown", keydown);
  document.addEventListener("keyup", (event) => { if (event.code === "Space") view.space = false; });
}
function useChance() { mask.take(chance, Math.round(2.55 * $("threshold").querySelector("input").value)); hideChance(); }

async function save(name) {
  $("save").open = false;
  const file = await tried(() => api.download(`turn/${state.at}/${name}`));
  if (!file) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file.blob); link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const step = () => Math.max(2, Math.round(Math.max(mask.width, mask.height) / 64));
const deeds = {
  grow: () => mask.widen(step()), shrink: () => mask.widen(-step()), invert: () => mask.invert(),
  clear: () => { hideChance(); mask.clear(); }, back: () => mask.back(), forth: () => mask.forth(),
};
const keys = {
  b: "[data-tool=brush]", e: "[data-tool=eraser]", l: "[data-tool=lasso]", r: "[data-tool=box]", o: "[data-tool=ellipse]",
  v: "[data-tool=move]", p: "[data-tool=pick]", "+": "[data-do=grow]", "=": "[data-do=grow]", "-": "[data-do=shrink]",
  i: "[data-do=invert]", f: "#feather", delete: "[data-do=clear]", backspace: "[data-do=clear]", h: "#eye", u: "#undo",
  c: "#compare", g: "#grid", a: "#again", "?": "#help",
};
const nudges = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] };

function keydown(event) {
  const typing = event.target.matches("input:not([type=range]), textarea, select");
  const ctrl = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  let done = true;
  if (ctrl && event.key === "Enter") paint();
  else if (event.key === "Escape") { if (busy() || asking) cancel(); results(false); event.target.blur?.(); done = false; }
  else if (ctrl && key === "o") $("file").click();
  else if (typing || $("keys").open) done = false;
  else if (ctrl && key === "z") deeds[event.shiftKey ? "forth" : "back"]();
  else if (ctrl && key === "y") deeds.forth();
  else if (ctrl || event.altKey) done = false;
  else if (event.code === "Space") view.space = true;
  else if (key === "0") view.fit();
  else if (key === "[" || key === "]") { $("size").value = view.size = Math.min(200, Math.max(4, Math.round(view.size * (key === "]" ? 1.2 : 1 / 1.2)))); }
  else if (nudges[event.key] && view.tool === "move") { mask.keep(); mask.move(...nudges[event.key]); }
  else if (keys[key] && !document.querySelector(keys[key]).hidden) document.querySelector(keys[key]).click();
  else done = false;
  if (done) event.preventDefault();
}

function fill(id, names) {
  $(id).replaceChildren(...names.map((name) => new Option(name, name)));
  $(id).closest("label").hidden = names.length < 2;
}

async function start() {
  wire();
  offered = await tried(() => api.enter());
  if (!offered) { setTimeout(() => location.reload(), 4000); return; }
  fill("base", offered.bases); fill("branch", offered.branches); fill("method", offered.methods);
  for (const [id, value] of [["steps_", offered.steps], ["guidance", offered.guidance]]) { $(id).value = value; $(id).oninput(); }
  $("find").hidden = !offered.finds.includes("phrase"); $("region").hidden = !offered.finds.includes("region");
  document.querySelector("[data-tool=pick]").hidden = !offered.finds.includes("click");
  for (const name of offered.samples) {
    const button = document.createElement("button"), image = document.createElement("img");
    button.title = name; image.alt = name;
    button.onclick = () => tried(() => api.post(`sample/${name}`));
    api.blob(`sample/${name}`).then((found) => { image.src = URL.createObjectURL(found); }, () => {});
    button.append(image); $("samples").append(button);
  }
  api.news(told, (gone) => { if (gone) say("the server can't be reached; trying again", true); });
}

start();
