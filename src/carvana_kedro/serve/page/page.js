import {alphaOf} from "./pixels.js";
import {zip} from "./zip.js";

const find = id => document.getElementById(id);
const threshold = find("threshold");
const cards = new Map(); // from the element of the list to the photograph
const waiting = [];
let isSending = false;
let isPacking = false;
let limits = {upload_bytes: Infinity};

const ready = fetch("health").then(answer => answer.json()).then(health => {
  limits = health;
  threshold.value = health.threshold;
  const isHere = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  const place = isHere ? "this machine: photographs stay here" : `${location.hostname}, to which photographs are sent`;
  find("about").textContent = `The model ${health.model} runs on ${place}.`;
  showSettings();
}).catch(() => say("The server does not answer. Start it again, then reload this page."));

function say(text) {
  find("status").textContent = text;
}

// Return "1 of 1 photograph is" or "2 of 3 photographs are".
function share(part, all, noun) {
  return `${part} of ${all} ${noun}${all === 1 ? " is" : "s are"}`;
}

// Photographs

function add(files) {
  for (const file of files) {
    const element = find("card").content.firstElementChild.cloneNode(true);
    const part = name => element.querySelector(name);
    const card = {file, element, part, state: "waiting"};
    part("h2").textContent = file.name;
    part(".split").setAttribute("aria-label", `Share of ${file.name} that is shown as before`);
    part(".split").addEventListener("input", event => {
      part(".picture").style.setProperty("--split", `${event.target.value}%`);
    });
    part(".download").setAttribute("aria-label", `Download ${file.name}`);
    part(".download").addEventListener("click", () => downloadOne(card));
    part(".remove").setAttribute("aria-label", `Remove ${file.name}`);
    part(".remove").addEventListener("click", () => removeOne(card));
    cards.set(element, card);
    find("photographs").append(element);
    waiting.push(card);
  }
  showSettings();
  sendWaiting();
}

function removeOne(card) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  forget(card);
  (next?.querySelector(".remove") ?? find("files")).focus();
  say(`${card.file.name} was removed`);
}

function forget(card) {
  card.state = "removed";
  seen.unobserve(card.element);
  cards.delete(card.element);
  card.element.remove();
  showSettings();
}

async function sendWaiting() {
  if (isSending) return;
  isSending = true;
  await ready;
  for (let card = waiting.shift(); card; card = waiting.shift()) {
    if (card.state !== "waiting") continue;
    try {
      tell(card, "In progress");
      await receive(card, await (await post("preview", card.file)).json());
    } catch (error) {
      card.element.classList.add("failed");
      card.state = card.state === "removed" ? card.state : "failed";
      tell(card, error.message);
    }
    showSettings();
    const all = [...cards.values()];
    const failed = all.filter(each => each.state === "failed").length;
    const finished = all.filter(each => each.state === "done").length;
    say(`${share(finished, all.length, "photograph")} cut out${failed ? `, ${failed} failed` : ""}`);
  }
  isSending = false;
}

function tell(card, text) {
  card.part(".message").textContent = text;
}

// Send a photograph; if the server is busy, wait as long as it says and try again. Throw an error that can be shown.
async function post(path, file) {
  if (file.size > limits.upload_bytes) throw new Error(`The file is larger than ${limits.upload_bytes / 1e6} MB.`);
  for (let attempt = 1; ; attempt++) {
    const answer = await fetch(path, {method: "POST", body: file, headers: {"content-type": "application/octet-stream"}})
      .catch(() => { throw new Error("The server does not answer, or the file cannot be read."); });
    if (answer.ok) return answer;
    if (answer.status === 503 && attempt < 5) {
      const seconds = Math.min(30, Number(answer.headers.get("retry-after")) || 1);
      await new Promise(resolve => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const {error} = await answer.json().catch(() => ({error: `The server answered with an error: ${answer.status}`}));
    throw new Error(error);
  }
}

async function receive(card, preview) {
  const image = card.part("img");
  image.src = preview.photograph;
  image.alt = `Photograph ${card.file.name}`;
  const gray = new Image();
  gray.src = preview.probabilities;
  await Promise.all([image.decode(), gray.decode()]);
  if (card.state === "removed") return;
  card.photograph = pixelsOf(image);
  card.probabilities = pixelsOf(gray).data.filter((_, at) => at % 4 === 0);
  const canvas = card.part("canvas");
  canvas.width = preview.width;
  canvas.height = preview.height;
  card.part(".picture").hidden = false;
  card.part(".download").hidden = false;
  card.state = "done";
  show(card);
  seen.observe(card.element);
}

function pixelsOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// Settings

// Only photographs that can be seen follow the threshold at once; the others when they come into view.
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const card = cards.get(entry.target);
    if (!card) continue;
    card.isSeen = entry.isIntersecting;
    if (card.isSeen) show(card);
  }
});

function show(card) {
  if (card.shown === threshold.value) return;
  card.shown = threshold.value;
  const {width, height, data} = card.photograph;
  const alpha = alphaOf(card.probabilities, width, height, Number(threshold.value));
  const pixels = new ImageData(new Uint8ClampedArray(data), width, height);
  for (let at = 0; at < alpha.length; at++) pixels.data[4 * at + 3] = alpha[at];
  card.part("canvas").getContext("2d").putImageData(pixels, 0, 0);
  const covered = alpha.reduce((sum, value) => sum + value, 0) / 255 / alpha.length;
  const percent = Math.max(1, Math.round(100 * covered));
  tell(card, covered === 0 ? "No car is found at this threshold" : `The car covers ${percent} % of the photograph`);
}

function background() {
  const {value} = document.querySelector("[name=background]:checked");
  return value === "custom" ? find("custom").value : value;
}

function showSettings() {
  find("settings").hidden = cards.size === 0;
  find("all").disabled = isPacking || ![...cards.values()].some(card => card.state === "done");
  find("level").textContent = Number(threshold.value).toFixed(2);
  const color = background();
  document.documentElement.style.setProperty("--background", color === "transparent" ? "var(--clear)" : color);
}

let frame = 0;
threshold.addEventListener("input", () => {
  showSettings();
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    for (const card of cards.values()) if (card.state === "done" && card.isSeen) show(card);
  });
});
find("settings").addEventListener("change", showSettings);
find("settings").addEventListener("submit", event => event.preventDefault());
find("custom").addEventListener("input", () => {
  document.querySelector("[name=background][value=custom]").checked = true;
  showSettings();
});
find("clear").addEventListener("click", () => {
  for (const card of [...cards.values()]) forget(card);
  find("files").focus();
  say("All photographs were removed");
});

// Downloads: the server computes them at full size, with clean edges.

function settings() {
  return new URLSearchParams({threshold: threshold.value, background: background()});
}

async function cutOut(card, query) {
  return (await post(`cut?${query}`, card.file)).blob();
}

function fileName(name, taken = new Set()) {
  const stem = name.replace(/\.[^.]*$/, "") || "photograph";
  let found = `${stem}.png`;
  for (let number = 2; taken.has(found); number++) found = `${stem}-${number}.png`;
  taken.add(found);
  return found;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function downloadOne(card) {
  const button = card.part(".download");
  button.disabled = true;
  try {
    save(await cutOut(card, settings()), fileName(card.file.name));
    say(`${card.file.name} is downloaded`);
  } catch (error) {
    say(`${card.file.name}: ${error.message}`);
  }
  button.disabled = false;
}

find("all").addEventListener("click", async () => {
  isPacking = true;
  showSettings();
  const query = settings(); // the same for all, also if they change meanwhile
  const files = [];
  const problems = [];
  const taken = new Set();
  const chosen = [...cards.values()].filter(card => card.state === "done");
  for (const card of chosen) {
    say(`Cutting out ${files.length + problems.length + 1} of ${chosen.length}`);
    try {
      files.push({name: fileName(card.file.name, taken), blob: await cutOut(card, query)});
    } catch (error) {
      problems.push(`${card.file.name}: ${error.message}`);
    }
  }
  if (files.length) save(await zip(files), "cutouts.zip");
  say([`${share(files.length, chosen.length, "cut-out")} downloaded`, ...problems].join(". "));
  isPacking = false;
  showSettings();
});

// Where photographs come from

find("files").addEventListener("change", event => {
  add(event.target.files);
  event.target.value = "";
});
addEventListener("paste", event => add(event.clipboardData.files));
addEventListener("dragover", event => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", event => {
  if (!event.relatedTarget) find("drop").classList.remove("over");
});
addEventListener("drop", event => {
  event.preventDefault();
  find("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
