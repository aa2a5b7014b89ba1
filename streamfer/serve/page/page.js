// The live page. What is said by records reaches the document as text alone, never as markup.

// Okabe and Ito's colours, which colour-blind people tell apart; unsure and withheld are grey.
const COLOURS = ["#e69f00", "#0072b2", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a800", "#7d5fb2", "#8c564b", "#4d7c8a", "#a0522d"];
const GREY = "#8b949e";
const MOST_CLIPS = 1200; // of a person
const KEPT_SECONDS = 605; // of a person: the longest span that can be shown
const CLOSEST_SECONDS = 0.9; // between a clip and the last but one before it
const WORTH_NAMING = 0.2; // of an action unit's intensity
const MOST_PEOPLE = 200; // on the page, those seen last
const MOST_CAPTIONS = 50;
const LIVE_MS = 1000; // between drawings
const PATIENCE_MS = 5000; // for the next picture of a camera

const $ = (id) => document.getElementById(id);
const make = (name, words = "", kind = "") => {
  const element = document.createElement(name);
  element.textContent = words;
  if (kind) element.className = kind;
  return element;
};

const people = new Map(); // key -> {source, track, clips: [clip], said, row}
const sources = new Map(); // id -> {state, reason, lag, ...}
let colours = new Map(); // label -> colour
let captions = [];
let chosen = null; // key of the person whose detail is open
let charts = [];
let until = null; // seconds since 1970 of a look back; null follows
let changed = false;
let live = null;
let unitNames = {}; // AU12 -> lip corner puller
let looking = null; // id of the source whose pictures are shown
let picture = null; // the image of it

const clock = (t) => new Date(t * 1000).toLocaleTimeString();
const colourOf = (label) => {
  if (label === "unsure" || label === "withheld") return GREY;
  if (!colours.has(label)) colours.set(label, COLOURS[colours.size % COLOURS.length]);
  return colours.get(label);
};
const spanOf = () => Number($("span").value);
const endOf = () => until ?? Date.now() / 1000;

// ---------------------------------------------------------------- what comes in

function take(message) {
  changed = true;
  switch (message.kind) {
    case "clip": return takeClip(message);
    case "caption": return takeCaption(message);
    case "status":
      for (const gone of [...sources.keys()].filter((id) => !(id in message.sources))) sources.delete(gone);
      for (const [id, facts] of Object.entries(message.sources)) sources.set(id, facts);
      return;
    case "standing": return stand(message.words, message.bad);
    case "again": return look();
  }
}

function takeClip(clip) {
  for (const label of Object.keys(clip.emotions)) colourOf(label);
  clip.strongest = Object.entries(clip.units).sort((a, b) => b[1] - a[1]).slice(0, 3);
  const key = `${clip.source}\u0000${clip.track_id}`;
  let person = people.get(key);
  if (!person) {
    person = { key, source: clip.source, track: clip.track, clips: [], said: "" };
    people.set(key, person);
  }
  const clips = person.clips;
  if (clips.length && clips[clips.length - 1].t > clip.t) {
    clips.splice(clips.findIndex((one) => one.t > clip.t), 0, clip);
  } else {
    // Two a second are as many as can be told apart.
    if (clips.length > 1 && clip.t - clips[clips.length - 2].t < CLOSEST_SECONDS) clips.pop();
    clips.push(clip);
  }
  while (clips.length > MOST_CLIPS || clips[0].t < last(person).t - KEPT_SECONDS) clips.shift();
  if (people.size > MOST_PEOPLE) {
    const oldest = [...people.values()].reduce((a, b) => (last(a).t <= last(b).t ? a : b));
    oldest.row?.remove();
    people.delete(oldest.key);
  }
}

const last = (person) => person.clips[person.clips.length - 1];

function takeCaption(caption) {
  const person = people.get(`${caption.source}\u0000${caption.track_id}`);
  if (person) person.said = caption.text;
  captions.push(caption);
  if (captions.length > MOST_CAPTIONS) captions.shift();
}

function stand(words, bad) {
  if ($("standing").textContent !== words) $("standing").textContent = words;
  $("standing").className = bad ? "bad" : "good";
}

function follow() {
  live?.close();
  forget();
  live = new EventSource("events");
  live.onmessage = (event) => JSON.parse(event.data).forEach(take);
  live.onerror = () => {
    stand("the server does not answer; trying again", true);
    // The connection is opened again by the browser, and everything is told anew.
    if (live.readyState === EventSource.CLOSED) setTimeout(comeBack, 3000);
  };
  live.onopen = forget;
}

async function comeBack() {
  const answer = await fetch("about").catch(() => null);
  // A server that was started anew asks for the token again.
  if (answer?.status === 401) location.reload();
  else if (until === null) follow();
}

function forget() {
  for (const person of people.values()) person.row?.remove();
  people.clear();
  captions = [];
  changed = true;
}

// A look back: what Redis still holds of that time.
async function look() {
  const moment = $("until").value;
  if (!moment) return leaveLookingBack();
  until = new Date(moment).getTime() / 1000;
  live?.close();
  forget();
  const then = new Date(until * 1000).toLocaleString();
  stand(`looking back at ${then}`, false);
  try {
    const answer = await fetch(`history?from=${until - spanOf()}&to=${until}`);
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    found.messages.forEach(take);
    if (found.more) stand(`looking back at ${then}; the first ${found.messages.length} records`, false);
  } catch (error) {
    stand(`no history: ${error.message}`, true);
  }
}

function leaveLookingBack() {
  until = null;
  $("until").value = "";
  follow();
}

// ---------------------------------------------------------------- what is shown

function draw() {
  if (document.hidden || (!changed && until !== null)) return;
  changed = false;
  drawSources();
  drawPeople();
  drawCaptions();
  if (chosen) drawDetail();
}

function tell(place, words) {
  if (place.textContent !== words) place.textContent = words;
  place.hidden = !words;
}

function cell(row, at, words, kind = "") {
  const found = row.cells[at] ?? row.insertCell();
  if (found.textContent !== words) found.textContent = words;
  if (found.className !== kind) found.className = kind;
}

function drawSources() {
  const body = $("sources").tBodies[0];
  const ids = [...sources.keys()].sort();
  while (body.rows.length > ids.length) body.deleteRow(-1);
  tell($("nothing"), ids.length ? "" : "No source speaks yet. streamfer run SOURCE starts one; it must publish to the Redis that this page reads.");
  ids.forEach((id, at) => {
    const row = body.rows[at] ?? body.insertRow();
    const facts = sources.get(id);
    const kind = facts.state === "online" ? "good" : ["ended", "unknown"].includes(facts.state) ? "" : "bad";
    cell(row, 0, id);
    const state = facts.paused ? "paused" : facts.reason ? `${facts.state}: ${facts.reason}` : facts.state;
    cell(row, 1, state, `reason ${kind}`);
    cell(row, 2, facts.state === "online" && Number.isFinite(Number(facts.lag)) ? `${Number(facts.lag).toFixed(1)} s` : "", facts.lag > 2 ? "busy" : "");
    cell(row, 3, String(facts.rate ?? ""));
    cell(row, 4, Number(facts.dropped) ? facts.dropped : "", "busy");
    cell(row, 5, String(facts.gaps || ""), facts.gaps ? "busy" : "");
    drawLook(row.cells[6] ?? row.insertCell(), id, facts);
    const hands = row.cells[7] ?? row.insertCell();
    hands.className = "control";
    drawControl(hands, id, facts);
  });
  document.body.classList.toggle("pictured", [...sources.values()].some((facts) => facts.preview));
  if (looking && !sources.get(looking)?.preview) lookAt(null);
}

function drawLook(place, id, facts) {
  const possible = facts.preview && (facts.state === "online" || looking === id);
  const now = `${id} ${possible} ${looking === id}`;
  if (place.dataset.now === now) return;
  place.dataset.now = now;
  place.className = "picture";
  place.textContent = "";
  if (!possible) return;
  const button = make("button", looking === id ? "close" : "look");
  button.type = "button";
  button.setAttribute("aria-label", `${looking === id ? "close the picture of" : "look at"} ${id}`);
  button.onclick = () => lookAt(looking === id ? null : id);
  place.append(button);
}

// The run makes pictures for as long as one is asked for here, each second.
function lookAt(id) {
  looking = id;
  $("look").hidden = id === null;
  picture?.remove();
  picture = null;
  $("seen").textContent = id === null ? "" : `waiting for a picture of ${id}`;
  changed = true;
  draw();
}

function drawPicture() {
  if (!looking || document.hidden) return;
  const id = looking;
  const next = new Image();
  next.onload = () => {
    if (id !== looking) return;
    const blurred = sources.get(id)?.preview === "blurred" ? ", faces blurred" : "";
    next.alt = `what ${id} sees${blurred}`;
    next.dataset.at = Date.now();
    if ($("seen").textContent !== `${id}${blurred}`) $("seen").textContent = `${id}${blurred}`;
    picture?.remove();
    picture = next;
    $("look").prepend(picture);
  };
  next.onerror = () => {
    // One that is a little late may still come.
    if (id !== looking || Date.now() - Number(picture?.dataset.at ?? 0) < PATIENCE_MS) return;
    picture?.remove();
    picture = null;
    $("seen").textContent = `no picture of ${id} yet`;
  };
  next.src = `preview/${encodeURIComponent(id)}?t=${Date.now()}`;
}

function drawControl(place, id, facts) {
  if (!document.body.classList.contains("controlled") || place.dataset.source === id + facts.paused) return;
  place.dataset.source = id + facts.paused;
  place.textContent = "";
  const pause = make("button", facts.paused ? "go on" : "pause");
  pause.onclick = () => control("PATCH", id, { paused: !facts.paused });
  const remove = make("button", "remove");
  remove.onclick = () => confirm(`Remove ${id}? Its camera is no longer analysed.`) && control("DELETE", id);
  for (const button of [pause, remove]) {
    button.type = "button";
    button.setAttribute("aria-label", `${button.textContent} ${id}`);
    place.append(button, " ");
  }
}

async function control(method, id, body) {
  const answer = await fetch(`sources${id ? `/${encodeURIComponent(id)}` : ""}`, {
    method, headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body),
  });
  const said = await answer.json().catch(() => ({}));
  $("answer").textContent = answer.ok ? "done" : said.error ?? `refused (${answer.status})`;
  $("answer").className = answer.ok ? "good" : "bad";
  return answer.ok;
}

function shown() {
  const words = $("filter").value.trim().toLowerCase();
  const label = $("label").value;
  const from = endOf() - spanOf();
  return [...people.values()]
    .filter((person) => last(person).t >= from && person.clips.some((clip) => clip.t <= endOf()))
    .filter((person) => !words || nameOf(person).toLowerCase().includes(words))
    .filter((person) => !label || last(person).label === label)
    .sort((a, b) => a.source.localeCompare(b.source) || a.track - b.track);
}

const nameOfUnit = (unit) => (unitNames[unit] ? `${unit} ${unitNames[unit]}` : unit);
const nameOf = (person) => `${person.source} · person ${person.track}`;

function drawPeople() {
  const list = $("people");
  const wanted = shown();
  tell($("nobody"), wanted.length ? "" : $("filter").value || $("label").value ? "Nobody of this time fits the filter." : "Nobody was seen in this time.");
  const keep = new Set(wanted.map((person) => person.key));
  for (const person of people.values()) if (!keep.has(person.key) && person.row) { person.row.remove(); person.row = null; }
  wanted.forEach((person, at) => {
    if (!person.row) person.row = rowOf(person);
    if (list.children[at] !== person.row) list.insertBefore(person.row, list.children[at] ?? null);
    drawPerson(person);
  });
  drawLegend();
}

function rowOf(person) {
  const row = make("li");
  const button = make("button", "", "person");
  button.type = "button";
  const parts = [make("span", "", "now"), make("canvas"), make("span", "", "units"), make("span", "", "said")];
  button.append(make("strong", nameOf(person)), ...parts);
  button.children[2].setAttribute("aria-hidden", "true");
  button.onclick = () => open(person.key);
  row.append(button);
  return row;
}

function drawPerson(person) {
  const [, now, canvas, units, said] = person.row.firstChild.children;
  const clip = last(person);
  const share = `${Math.round(clip.probability * 100)} %`;
  const words = clip.label === "unsure" ? `unsure (${clip.reason}; best ${share})` : clip.label === "withheld" ? "withheld" : `${clip.label} ${share}`;
  if (now.textContent !== words) now.textContent = words;
  const named = clip.strongest.filter(([, value]) => value >= WORTH_NAMING);
  const moved = named.map(([unit, value]) => `${nameOfUnit(unit)} ${value.toFixed(2)}`).join(", ");
  if (units.textContent !== moved) { units.textContent = moved; units.title = moved; }
  if (said.textContent !== person.said) { said.textContent = person.said; said.title = person.said; }
  drawStrip(canvas, person.clips);
}

// The upper part: the label, as high as it is probable. The lower part: the three strongest action units.
function drawStrip(canvas, clips) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  const height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (!width) return;
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  const end = endOf();
  const span = spanOf();
  const upper = Math.round(height * 0.62);
  const x = (t) => ((t - end + span) / span) * width;
  const inside = clips.filter((clip) => clip.t >= end - span - 5 && clip.t <= end);
  inside.forEach((clip, at) => {
    const left = x(clip.t);
    const right = at + 1 < inside.length && inside[at + 1].t - clip.t < 3 ? x(inside[at + 1].t) : left + Math.max(1, (width / span) * 1);
    pen.fillStyle = colourOf(clip.label);
    const tall = Math.max(1, clip.probability * upper);
    pen.fillRect(left, upper - tall, Math.max(1, right - left), tall);
    clip.strongest.forEach(([, value], row) => {
      pen.globalAlpha = Math.min(1, 0.15 + value);
      pen.fillStyle = GREY;
      pen.fillRect(left, upper + 2 + row * ((height - upper - 2) / 3), Math.max(1, right - left), (height - upper - 2) / 3 - 1);
      pen.globalAlpha = 1;
    });
  });
}

function drawLegend() {
  const labels = [...colours.keys()];
  if ($("legend").childElementCount === labels.length + 1) return;
  $("legend").textContent = "";
  const chosenLabel = $("label").value;
  $("label").length = 1;
  for (const label of [...labels, "unsure"]) {
    const entry = make("span", label);
    entry.style.setProperty("--swatch", colourOf(label));
    $("legend").append(entry);
    $("label").add(new Option(label, label));
  }
  $("label").value = chosenLabel;
}

function drawCaptions() {
  const list = $("captions");
  const newest = captions.slice(-12).reverse();
  tell($("unsaid"), newest.length ? "" : "Nothing was said in this time. A run describes what it sees with --captions changes.");
  if (list.dataset.newest === String(newest[0]?.id)) return;
  list.dataset.newest = String(newest[0]?.id);
  list.replaceChildren(...newest.map((caption) => {
    const entry = make("li");
    entry.append(make("time", clock(caption.t)), make("strong", `${caption.source} · person ${caption.track}: `), caption.text);
    return entry;
  }));
}

// ---------------------------------------------------------------- one person

function open(key) {
  chosen = key;
  for (const chart of charts) chart.destroy();
  charts = [];
  $("detail").hidden = false;
  drawDetail();
  $("detail-title").focus();
}

function closeDetail() {
  const row = people.get(chosen)?.row?.firstChild;
  chosen = null;
  $("detail").hidden = true;
  row?.focus();
}

function drawDetail() {
  const person = people.get(chosen);
  if (!person) return;
  $("detail-title").textContent = nameOf(person);
  const clips = [];
  for (const clip of person.clips.filter((clip) => clip.t >= endOf() - spanOf() && clip.t <= endOf())) {
    // No line is drawn through a time in which nothing was seen.
    const before = clips[clips.length - 1];
    if (before && clip.t - before.t > 3) clips.push({ t: before.t + 1, emotions: {}, units: {} });
    clips.push(clip);
  }
  const labels = [...colours.keys()];
  const units = [...new Set(clips.flatMap((clip) => Object.keys(clip.units)))]
    .map((unit) => [unit, Math.max(...clips.map((clip) => clip.units[unit] ?? 0))])
    .sort((a, b) => b[1] - a[1]).slice(0, 6).map(([unit]) => unit).sort();
  const times = clips.map((clip) => clip.t);
  chart(0, $("expressions"), labels, [times, ...labels.map((label) => clips.map((clip) => clip.emotions[label] ?? null))]);
  chart(1, $("units"), units.map(nameOfUnit), [times, ...units.map((unit) => clips.map((clip) => clip.units[unit] ?? null))]);
  const words = captions.filter((caption) => caption.source === person.source && caption.track === person.track).slice(-8).reverse();
  $("words").replaceChildren(...words.map((caption) => {
    const entry = make("li");
    entry.append(make("time", clock(caption.t)), caption.text);
    return entry;
  }));
}

function chart(at, place, names, data) {
  const known = charts[at];
  const width = Math.max(240, place.clientWidth);
  if (known && known.names === names.join()) {
    if (known.width !== width) known.setSize({ width, height: 200 });
    return known.setData(data);
  }
  known?.destroy();
  const ink = getComputedStyle(document.body).color;
  const axis = { stroke: ink, grid: { stroke: "rgba(128,128,128,.25)" }, ticks: { stroke: "rgba(128,128,128,.25)" } };
  const stroke = (name, row) => (colours.has(name) ? colourOf(name) : COLOURS[row % COLOURS.length]);
  charts[at] = new uPlot({
    width, height: 200, scales: { y: { range: [0, 1] } }, axes: [axis, { ...axis, size: 55 }],
    series: [{}, ...names.map((name, row) => ({ label: name, stroke: stroke(name, row), width: 1.5, spanGaps: false,
      value: (_, number) => (number == null ? "" : number.toFixed(2)) }))],
  }, data, place);
  charts[at].names = names.join();
}

// ---------------------------------------------------------------- hands

$("filters").onsubmit = (event) => event.preventDefault();
for (const id of ["filter", "label", "span"]) $(id).oninput = () => { changed = true; if (until !== null && id === "span") look(); else draw(); };
$("until").onchange = look;
$("now").onclick = leaveLookingBack;
$("close").onclick = closeDetail;
$("add").onsubmit = async (event) => {
  event.preventDefault();
  const fields = Object.fromEntries([...new FormData($("add"))].filter(([, words]) => words));
  if (await control("POST", "", fields)) $("add").reset();
};
document.onkeydown = (event) => {
  if (event.target.matches("input, select") && event.key !== "Escape") return;
  if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
  if (event.key === "Escape") chosen ? closeDetail() : event.target.blur?.();
  if (event.key === "j" || event.key === "k") {
    const buttons = [...document.querySelectorAll(".person")];
    const at = buttons.indexOf(document.activeElement) + (event.key === "j" ? 1 : -1);
    buttons[Math.min(Math.max(at, 0), buttons.length - 1)]?.focus();
  }
};
document.onvisibilitychange = () => { changed = true; draw(); };
$("away").onclick = () => lookAt(null);

fetch("about").then((answer) => answer.json()).then((about) => {
  document.body.classList.toggle("controlled", about.control);
  $("add").hidden = !about.control;
  unitNames = about.units;
}).finally(follow);
setInterval(() => { draw(); drawPicture(); }, LIVE_MS);
