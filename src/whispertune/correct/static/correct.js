"use strict";
// The page of `whispertune correct`. All that comes from the data is set as text, never as markup.

const SAVED_AFTER = 500; // milliseconds from the first key that is not saved yet to its edit
const $ = (id) => document.getElementById(id);
const state = { number: 0, segment: null, text: "", view: null, pad: 2, first: 0, items: [], timer: null, rate: 1 };
let wave = null, regions = null, queue = Promise.resolve();

const KEYS = [ // [shown, test, action, description]
  ["Esc", (e) => e.key === "Escape", () => playOrPause(), "Play the segment, or pause"],
  ["Alt+Enter", (e) => e.altKey && e.key === "Enter", () => playFromCaret(), "Play from the caret"],
  ["Alt+←", (e) => e.altKey && e.code === "ArrowLeft", () => jump(-1), "A second back"],
  ["Alt+→", (e) => e.altKey && e.code === "ArrowRight", () => jump(1), "A second on"],
  ["Alt+−", (e) => e.altKey && e.code === "Minus", () => faster(-0.1), "Play more slowly"],
  ["Alt+=", (e) => e.altKey && e.code === "Equal", () => faster(0.1), "Play faster"],
  ["Ctrl+Enter", (e) => command(e) && e.key === "Enter", () => mark("done", true), "Done, and on to the next to do"],
  ["Alt+K", (e) => e.altKey && e.code === "KeyK", () => mark("skip", true), "Skip it for now"],
  ["Alt+U", (e) => e.altKey && e.code === "KeyU", () => mark("unusable", true), "Unusable: not to be trained on"],
  ["Alt+T", (e) => e.altKey && e.code === "KeyT", () => mark("todo", false), "To do again"],
  ["Alt+↓", (e) => e.altKey && e.code === "ArrowDown", () => step(1), "Next in the list"],
  ["Alt+↑", (e) => e.altKey && e.code === "ArrowUp", () => step(-1), "Previous in the list"],
  ["Alt+1, Alt+2", (e) => e.altKey && (e.code === "Digit1" || e.code === "Digit2"),
    (e) => nudge("start", e.code === "Digit1" ? -1 : 1, e.shiftKey), "Start 0.05 s earlier, later (with Shift 0.5 s)"],
  ["Alt+3, Alt+4", (e) => e.altKey && (e.code === "Digit3" || e.code === "Digit4"),
    (e) => nudge("end", e.code === "Digit3" ? -1 : 1, e.shiftKey), "End 0.05 s earlier, later (with Shift 0.5 s)"],
  ["Alt+5, Alt+6", (e) => e.altKey && (e.code === "Digit5" || e.code === "Digit6"),
    (e) => move({ [e.code === "Digit5" ? "start" : "end"]: playedTime() }), "Start, end where it plays"],
  ["Alt+S", (e) => e.altKey && e.code === "KeyS", () => split(), "Split at the caret"],
  ["Alt+J", (e) => e.altKey && e.code === "KeyJ", () => structural({ op: "join" }), "Join with the next segment"],
  ["Alt+A", (e) => e.altKey && e.code === "KeyA", () => add(), "New segment behind it, for speech that was missed"],
  ["Alt+N", (e) => e.altKey && e.code === "KeyN", () => $("note").focus(), "Write a note"],
  ["Alt+X", (e) => e.altKey && e.code === "KeyX", () => $("text").focus(), "Back to the text"],
  ["Alt+F", (e) => e.altKey && e.code === "KeyF", () => $("search").focus(), "Search"],
  ["Alt+W", (e) => e.altKey && e.code === "KeyW", () => widen(), "Show more of the recording around it"],
  ["Ctrl+Shift+Z, Ctrl+Y", (e) => command(e) && (e.code === "KeyY" || (e.shiftKey && e.key.toLowerCase() === "z")),
    () => structural({ op: "redo" }), "Redo"],
  ["Ctrl+Z", (e) => command(e) && e.key.toLowerCase() === "z", () => structural({ op: "undo" }), "Undo, back to the beginning"],
  ["Ctrl+S", (e) => command(e) && e.key.toLowerCase() === "s", () => save(), "Write the files (edits are kept without it)"],
  ["F1, ?", (e) => e.key === "F1" || (e.key === "?" && !isTyping(e)), () => $("keys").showModal(), "These keys"],
];

const command = (e) => (e.ctrlKey || e.metaKey) && !e.altKey;
const isTyping = (e) => e.target instanceof HTMLElement && e.target.matches("textarea, input");

// Requests.

async function get(path) {
  const answer = await fetch(path);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

async function post(path, content, keepalive = false) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), keepalive,
    });
  } catch {
    throw Object.assign(new Error("The server does not answer; start the command again, and reload this page with its new address. What is marked as saved is kept."), { offline: true });
  }
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { stale: answer.status === 409 });
  return found;
}

function fault(error) {
  $("fault").textContent = error ? error.message : "";
  $("fault").hidden = !error;
}

/** One after another, so that each edit knows of those before it. */
function enqueue(work) {
  queue = queue.then(work).then(() => undefined, async (error) => {
    $("text").readOnly = false;
    if (error.stale) $("text").value = state.text; // the other tab's, which `open` shows
    if (error.stale) await Promise.all([load(), state.segment && open(state.segment.id)]).catch(() => undefined);
    fault(error);
  });
  return queue;
}

async function apply(edit, keepalive = false) {
  const found = await post("apply", { ...edit, seen: state.number }, keepalive);
  fault(null);
  show(found);
  return found;
}

// Text: saved while it is typed.

function typed() {
  $("saved").textContent = "…";
  drawWords();
  state.timer ??= setTimeout(flush, SAVED_AFTER);
}

function flush(keepalive = false) {
  clearTimeout(state.timer);
  state.timer = null;
  return enqueue(async () => {
    const segment = state.segment, text = $("text").value, note = $("note").value, speaker = $("speaker").value;
    if (!segment) return;
    const edit = {};
    if (text !== state.text) edit.text = text;
    if (note !== (segment.note ?? "")) edit.note = note;
    if (speaker !== (segment.speaker ?? "")) edit.speaker = speaker;
    if (!Object.keys(edit).length) return void ($("saved").textContent = "Saved");
    try {
      await apply({ op: "edit", id: segment.id, ...edit }, keepalive === true);
    } catch (error) {
      $("saved").textContent = "Not saved";
      if (!error.stale) state.timer ??= setTimeout(flush, 2000); // again, as long as it takes
      throw error;
    }
    if (state.segment !== segment) return;
    state.text = text;
    Object.assign(segment, edit);
    $("saved").textContent = $("text").value === text ? "Saved" : "…";
    const found = await get(address("segment", segment));
    if (state.segment === segment) { segment.words = found.segment.words; drawWords(); }
    const item = [...$("items").children].find((one) => one.dataset.id === segment.id);
    if (item) item.querySelector("span").textContent = text;
  });
}

// The list.

async function load(first = 0) {
  const query = new URLSearchParams({ show: $("show").value, order: $("order").value, search: $("search").value, first });
  const found = await get(`items?${query}`);
  show(found);
  if (first === 0) { $("items").replaceChildren(); state.items = []; }
  for (const item of found.items) {
    state.items.push(item);
    const row = document.createElement("li"), button = document.createElement("button");
    const text = document.createElement("span"), about = document.createElement("small"), mark = document.createElement("b");
    row.className = `state-${item.status}`;
    row.dataset.id = item.id;
    text.dir = "auto";
    text.textContent = item.text || "(no text)";
    mark.textContent = { todo: "", done: "done ", skip: "skipped ", unusable: "unusable " }[item.status];
    const sure = item.confidence == null ? "" : `, confidence ${Math.round(100 * item.confidence)} %`;
    about.append(mark, `${item.seconds.toFixed(1)} s${sure}${item.note ? `, ${item.note}` : ""}`);
    button.append(text, about);
    button.addEventListener("click", () => {
      scrollTo(0, 0);  // on a narrow screen the list lies below what it opens
      flush().then(() => enqueue(() => open(item.id)));
    });
    row.append(button);
    $("items").append(row);
  }
  $("more").hidden = state.items.length >= found.found;
  current();
}

function show(found) {
  state.number = found.number;
  const { todo, done, skip, unusable } = found.counts, looked = found.total - todo;
  $("progress").value = found.total ? looked / found.total : 0;
  const { looked: last, changed, expected, at_most: atMost } = found.outlook;
  const ahead = expected === null ? "" : `; changed of the last ${last} done: ${changed}; at that rate `
    + `${expected} of the ${todo} left${atMost ? ", or fewer, as the most doubtful come first" : ""}`;
  $("counts").textContent = `${looked} of ${found.total} looked at: ${done} done, ${skip} skipped, ${unusable} unusable${ahead}`;
  $("undo").disabled = !found.undo;
  $("redo").disabled = !found.redo;
  if (found.fault) fault(new Error(`Edits are kept, but the manifest cannot be written: ${found.fault}`));
}

function current() {
  for (const row of $("items").children) {
    const here = row.dataset.id === state.segment?.id;
    row.firstChild.setAttribute("aria-current", here);
    if (here) {  // within the list alone: the page must not scroll away from the waveform
      const list = $("items").getBoundingClientRect(), place = row.getBoundingClientRect();
      $("items").scrollTop += Math.min(0, place.top - list.top) + Math.max(0, place.bottom - list.bottom);
    }
  }
}

// One segment.

const address = (path, segment, more = {}) => `${path}?${new URLSearchParams({
  id: segment.id, start: segment.start - state.pad, end: segment.end + state.pad, ...more })}`;

async function open(id, keepView = false) {
  let found = await get(`segment?${new URLSearchParams({ id })}`);
  if (state.pad !== 2) found = await get(address("segment", found.segment));
  show(found);
  const segment = found.segment, typing = state.segment?.id === id && $("text").value !== state.text;
  const unsaved = $("text").value;
  state.segment = segment;
  state.text = segment.text;
  $("text").readOnly = false;
  $("editor").hidden = false;
  $("name").textContent = found.recording.name;
  $("place").textContent = `${clock(segment.start)} – ${clock(segment.end)} of ${clock(found.recording.duration)}`;
  for (const [name, value] of [["text", segment.text], ["note", segment.note ?? ""], ["speaker", segment.speaker ?? ""],
    ["start", segment.start.toFixed(3)], ["end", segment.end.toFixed(3)]]) if ($(name).value !== value) $(name).value = value;
  if (typing) $("text").value = unsaved; // keys pressed while the answer was on its way
  for (const name of ["text", "words", "hypothesis"]) $(name).lang = segment.language ?? "";
  $("hypothesis").hidden = !segment.hypothesis;
  $("hypothesis").textContent = segment.hypothesis ? `The model transcribes: ${segment.hypothesis}` : "";
  $("saved").textContent = typing ? "…" : "Saved";
  drawWords();
  current();
  await draw(found, keepView);
}

async function draw(found, keepView) {
  const same = keepView && wave && state.view && state.view.start === found.start && state.view.end === found.end;
  state.view = { start: found.start, end: found.end };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  if (!same) {
    wave?.destroy();
    wave = null;
    $("wave").replaceChildren();
    if (found.recording.fault) {
      $("wave").textContent = found.recording.fault;
      return;
    }
    const more = { start: found.start, end: found.end };
    const { peaks } = await get(address("peaks", found.segment, more));
    regions = WaveSurfer.Regions.create();
    wave = WaveSurfer.create({
      container: $("wave"), height: 130, waveColor: colour("--wave"), progressColor: colour("--wave"),
      cursorColor: colour("--wrong"), cspNonce: document.querySelector("meta[name=nonce]").content,
      url: address("audio", found.segment, more), peaks: [peaks], duration: found.end - found.start, normalize: true,
      plugins: [regions],
    });
    wave.on("timeupdate", follow);
    for (const event of ["play", "pause", "finish"]) wave.on(event, () => {
      $("play").textContent = wave?.isPlaying() ? "Pause" : "Play";
    });
    await new Promise((done) => { wave.once("ready", done); wave.once("error", done); });
    wave.setPlaybackRate(state.rate, true);
    regions.on("region-updated", (region) => {
      if (region.id !== "segment") return;
      move({ start: state.view.start + region.start, end: state.view.start + region.end });
    });
  }
  regions.clearRegions();
  for (const other of found.others) regions.addRegion({
    start: Math.max(0, other.start - found.start), end: Math.min(other.end, found.end) - found.start,
    color: colour("--other"), drag: false, resize: false,
  });
  regions.addRegion({
    id: "segment", start: Math.max(0, found.segment.start - found.start), end: found.segment.end - found.start,
    color: colour("--region"), drag: false, resize: true,
  });
  if (!same) wave.setTime(Math.max(0, found.segment.start - found.start));
}

/** [begin, end, word] of the words that stand in the text, in their order. */
function places(words, text) {
  const found = [];
  let at = 0;
  for (const word of words ?? []) {
    const begin = word.text ? text.indexOf(word.text, at) : -1;
    if (begin < 0) continue;
    at = begin + word.text.length;
    found.push([begin, at, word]);
  }
  return found;
}

function drawWords() {
  const text = $("text").value, parts = [];
  const segment = state.segment, found = places(segment?.words, text);
  let at = 0;
  for (const [begin, end, word] of found) {
    if (begin > at) parts.push(text.slice(at, begin));
    const span = document.createElement("span");
    span.textContent = text.slice(begin, end);
    if (word.confidence != null) {
      span.className = `c${Math.min(3, Math.floor(word.confidence * 4))}`;
      span.title = `confidence ${Math.round(100 * word.confidence)} %`;
    }
    span.dataset.start = word.start;
    span.dataset.end = word.end;
    span.addEventListener("click", () => playFrom(word.start));
    parts.push(span);
    at = end;
  }
  if (!found.length && segment?.confidence != null && text) {
    const span = document.createElement("span");
    span.className = `c${Math.min(3, Math.floor(segment.confidence * 4))}`;
    span.title = `confidence ${Math.round(100 * segment.confidence)} %`;
    span.textContent = text;
    parts.push(span);
  } else parts.push(text.slice(at));
  $("words").replaceChildren(...parts);
}

const clock = (seconds) => {
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600);
  const rest = [Math.floor(whole / 60) % 60, whole % 60].map((part) => String(part).padStart(2, "0")).join(":");
  return `${hours ? `${hours}:` : ""}${rest}.${Math.floor((seconds - whole) * 10)}`;
};

// Playing.

const playedTime = () => state.view.start + (wave?.getCurrentTime() ?? 0);

function playFrom(seconds) {
  if (!wave) return;
  const { start, end } = state.segment, from = Math.max(start, Math.min(seconds, end - 0.02));
  wave.play(from - state.view.start, end - state.view.start).catch(() => undefined);
}

function playOrPause() {
  if (!wave) return;
  if (wave.isPlaying()) return wave.pause();
  const at = playedTime();
  playFrom(at >= state.segment.end - 0.05 || at < state.segment.start ? state.segment.start : at);
}

/** When what stands at the caret is said: by the words' times, else in proportion to the text. */
function caretTime(at) {
  const { start, end, words } = state.segment, text = $("text").value;
  const word = places(words, text).find(([, behind]) => behind > at);
  if (word) return word[2].start;
  return start + (end - start) * (text.length ? at / text.length : 0);
}

const playFromCaret = () => playFrom(caretTime($("text").selectionStart));
const jump = (seconds) => wave?.setTime(Math.max(0, wave.getCurrentTime() + seconds));

function faster(by) {
  state.rate = Math.round(Math.max(0.5, Math.min(2, state.rate + by)) * 10) / 10;
  wave?.setPlaybackRate(state.rate, true);
  $("speed").textContent = `${state.rate}×`;
}

function follow() {
  const at = playedTime();
  for (const span of $("words").querySelectorAll("[data-start]"))
    span.classList.toggle("now", span.dataset.start <= at && at < span.dataset.end);
}

// Edits of more than the text.

function structural(edit, next = null) {
  const id = state.segment?.id; // what the edit was made for, whatever is shown by then
  return flush().then(() => enqueue(async () => {
    const found = await apply({ id, ...edit });
    await load();
    const shown = next ?? found.focus ?? state.items[0]?.id;
    if (shown) await open(shown, true);
  }));
}

function mark(status, on) {
  if (!state.segment) return;
  const id = state.segment.id, place = state.items.findIndex((item) => item.id === id);
  const open_ = (item) => item.status === "todo" && item.id !== id;
  const next = on ? state.items.slice(place + 1).find(open_) ?? state.items.find(open_) : null;
  const same = (state.segment.status ?? "todo") === status;
  if (same && next) return flush().then(() => enqueue(() => open(next.id)));
  if (!same && next) $("text").readOnly = true; // what is typed from now on is meant for the next one
  if (!same) structural({ op: "edit", status }, next?.id ?? id).then(() => $("text").focus());
}

function step(by) {
  const place = state.items.findIndex((item) => item.id === state.segment?.id), next = state.items[place + by];
  if (next) flush().then(() => enqueue(() => open(next.id)));
}

const move = (times) => structural({ op: "edit", ...times }, state.segment.id);
const nudge = (side, sign, far) => move({ [side]: state.segment[side] + sign * (far ? 0.5 : 0.05) });

function split() {
  const text = $("text").value, caret = $("text").selectionStart, { start, end, words } = state.segment;
  const found = places(words, text), before = found.filter(([, behind]) => behind <= caret).pop();
  const after = found.find(([begin]) => begin >= caret), played = playedTime();
  let at = start + (end - start) * (text.length ? caret / text.length : 0.5);
  if (before && after) at = (before[2].end + after[2].start) / 2;
  else if (played > start + 0.05 && played < end - 0.05) at = played;
  structural({ op: "split", at, texts: [text.slice(0, caret), text.slice(caret)] });
}

function add() {
  const { end } = state.segment;
  const next = regions?.getRegions().map((one) => one.start + state.view.start).filter((at) => at >= end - 0.001);
  structural({ op: "add", start: end, end: Math.min(end + 2, ...(next?.length ? next : [Infinity])) });
}

function widen() {
  state.pad = state.pad >= 32 ? 2 : state.pad * 2;
  enqueue(() => open(state.segment.id));
}

function save() {
  flush().then(() => enqueue(async () => {
    const found = await post("save", {});
    $("written").textContent = `${found.manifest}: ${found.rows} ${found.rows === 1 ? "segment" : "segments"}, ` +
      `${(found.seconds / 60).toFixed(1)} minutes` +
      (found.transcripts ? `; transcripts: ${found.transcripts}` : "");
    $("command").textContent = found.command;
    $("files").showModal();
  }));
}

// Start.

function start() {
  for (const [shown, , , what] of KEYS) {
    const row = $("key-table").insertRow(), keys = row.insertCell();
    shown.split(", ").forEach((key, place) => {
      const box = document.createElement("kbd");
      box.textContent = key;
      keys.append(place ? " " : "", box);
    });
    row.insertCell().textContent = what;
  }
  document.addEventListener("keydown", (e) => {
    if (e.isComposing || document.querySelector("dialog[open]")) return; // an input method has these keys
    const found = KEYS.find(([, test]) => test(e));
    if (!found || (!state.segment && !["F1, ?"].includes(found[0]))) return;
    e.preventDefault();
    found[2](e);
  });
  const clicks = {
    undo: () => structural({ op: "undo" }), redo: () => structural({ op: "redo" }), save, help: () => $("keys").showModal(),
    play: playOrPause, caret: playFromCaret, slower: () => faster(-0.1), faster: () => faster(0.1), wider: widen,
    done: () => mark("done", true), skip: () => mark("skip", true), unusable: () => mark("unusable", true), split,
    join: () => structural({ op: "join" }), add, more: () => enqueue(() => load(state.items.length)),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  for (const id of ["text", "note", "speaker"]) $(id).addEventListener("input", typed);
  for (const id of ["start", "end"]) $(id).addEventListener("change", () => {
    const seconds = Number($(id).value.replace(",", "."));
    if (Number.isFinite(seconds)) move({ [id]: seconds }); else $(id).value = state.segment[id].toFixed(3);
  });
  for (const id of ["show", "order"]) $(id).addEventListener("change", () => enqueue(() => load()));
  $("search").addEventListener("input", () => enqueue(() => load()));
  addEventListener("pagehide", () => { if (state.timer) flush(true); });
  document.addEventListener("visibilitychange", () => { if (document.hidden && state.timer) flush(true); });
  enqueue(async () => {
    await load();
    const first = state.items.find((item) => item.status === "todo") ?? state.items[0];
    if (first) await open(first.id);
  });
}

start();
