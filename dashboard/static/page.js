/* What the page does by itself: follows the feeds its elements name, and keeps search and sliders
   quick. Without this script the pages work, but do not follow changes. */
"use strict";

const BACK_OFF_MS = [500, 8000];
const TYPING_MS = 300;
const SILENCE_MS = 15000;  // three times `BEAT_S` of dashboard/feeds.py
const ANSWER_MS = 120000;

/* ---- feeds: one socket a feed, opened again for ever */

const lost = new Set();

function follow(feed, onMessage) {
  let delay = BACK_OFF_MS[0];
  const open = () => {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/live/${feed}`);
    let silence = null;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(lose, SILENCE_MS);
    };
    const lose = () => {  // closed; or silent, as after sleep: the browser notices only later
      clearTimeout(silence);
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
      tellConnection(feed, false);
      setTimeout(open, delay);
      delay = Math.min(2 * delay, BACK_OFF_MS[1]);
    };
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { listen(); delay = BACK_OFF_MS[0]; tellConnection(feed, true); };
    socket.onmessage = (event) => {
      listen();
      if (event.data !== "") onMessage(event.data);  // else a sign of life
    };
    socket.onclose = lose;
    listen();
  };
  open();
}

function tellConnection(what, isOpen) {
  if (isOpen) lost.delete(what); else lost.add(what);
  document.body.classList.toggle("lost", lost.size > 0);
  document.getElementById("connection").textContent =
    lost.size ? "connection lost, trying again; the page shows what it received before" : "";
}

/* ---- parts of the page that follow a version */

const served = new Map();  // what the server sent last, by id: readers may have changed the page

function partsOf(page) {
  return [...page.querySelectorAll("[data-feed][data-seen]")];
}

const parts = () => partsOf(document);

let loading = false, again = false, refreshDelay = BACK_OFF_MS[0];

async function refresh() {
  if (loading) { again = true; return; }
  loading = true;
  try {
    do {
      again = false;
      const limit = AbortSignal.timeout(ANSWER_MS);
      const answer = await fetch(location.href, { cache: "no-store", signal: limit });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok && !partsOf(fresh).length) throw new Error(answer.statusText);  // of a proxy
      replaceParts(fresh);
    } while (again);
    tellConnection("page", true);
    refreshDelay = BACK_OFF_MS[0];
  } catch (error) {  // the server is away
    console.warn(error);
    tellConnection("page", false);
    setTimeout(refresh, refreshDelay);
    refreshDelay = Math.min(2 * refreshDelay, BACK_OFF_MS[1]);
  } finally {
    loading = false;
  }
}

function replaceParts(fresh) {
  const others = partsOf(fresh);
  if (parts().map((part) => part.id).join() !== others.map((other) => other.id).join()) {
    location.reload();  // another page altogether, such as an error that has passed
    return;
  }
  parts().forEach((part, i) => {
    part.dataset.seen = others[i].dataset.seen;
    if (others[i].innerHTML === served.get(part.id)) return;
    served.set(part.id, others[i].innerHTML);
    const before = changeable(part), focused = document.activeElement;
    part.replaceChildren(...others[i].childNodes);
    prepare(part);
    restore(changeable(part), before, focused);
  });
}

function changeable(part) {  // what a reader may open, type or have in focus, by what it is called
  const elements = new Map();
  for (const element of part.querySelectorAll("details, summary, input, select, button, a[href]")) {
    const text = (element.querySelector("summary") || element).textContent.replace(/\d+/g, "");  // rows grow
    const own = element.closest("figure")?.dataset.frames || element.name || element.href || text;
    let name = `${element.tagName} ${own}`;
    while (elements.has(name)) name += "+";
    elements.set(name, element);
  }
  return elements;
}

function restore(fresh, before, focused) {
  for (const [name, element] of fresh) {
    const old = before.get(name);
    if (!old) continue;
    if (old.matches("details")) element.open = old.open;
    else if (old.matches("input") && old.value !== old.defaultValue) {
      element.value = old.value;
      element.oninput?.();  // the slider shows its frame
    }
    if (old !== focused) continue;
    element.focus({ preventScroll: true });
    if (element.type === "text") element.setSelectionRange(old.selectionStart, old.selectionEnd);
  }
}

function onVersion(feed, version) {
  const old = parts().some((part) => part.dataset.feed === feed && part.dataset.seen !== version);
  if (old) refresh();
}

/* ---- the live camera: a JSON line, then a JPEG */

function onPicture(message) {
  const figure = document.querySelector("[data-feed=camera]");
  if (!figure) return;
  const bytes = new Uint8Array(message);
  const end = bytes.indexOf(10);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  if (header.received) figure.dataset.received = header.received;
  const received = figure.dataset.received, isOld = !header.connected && received;
  const since = isOld ? `; what is shown was received at ${received}` : "";
  figure.querySelector("[data-camera=status]").textContent = header.status + since;
  figure.classList.toggle("stale", !header.connected);
  const placeholder = figure.querySelector(".placeholder");
  if (header.connected) placeholder.textContent = placeholder.dataset.connected;
  if (!header.bytes) return;
  const image = figure.querySelector("img");
  const url = URL.createObjectURL(new Blob([bytes.subarray(end + 1)], { type: "image/jpeg" }));
  image.onload = image.onerror = () => URL.revokeObjectURL(url);
  image.src = url;
  image.hidden = false;
  placeholder.hidden = true;
  figure.dataset.number = header.number;
  drawFound(figure, header);
}

function drawFound(figure, header) {
  const found = header.found;
  const svg = figure.querySelector("svg.found");
  svg.removeAttribute("hidden");
  svg.setAttribute("viewBox", `0 0 ${header.width} ${header.height}`);
  figure.querySelector("[data-camera=caption]").textContent = found.caption;
  const [box, pin, tip] = [".box", ".pin", ".tip"].map((name) => svg.querySelector(name));
  const put = (element, values) => {
    element.style.display = values ? "" : "none";
    for (const [name, value] of Object.entries(values || {})) element.setAttribute(name, value);
  };
  const unit = header.width / 50;
  put(box, found.box && {
    x: found.box[0], y: found.box[1],
    width: found.box[2] - found.box[0], height: found.box[3] - found.box[1],
  });
  put(pin, found.pin && { cx: found.pin[0], cy: found.pin[1], r: unit / 2 });
  put(tip, found.tip && { d: cross(...found.tip, unit) });
}

function cross(x, y, arm) {  // leaves the point itself free to be seen
  const near = 0.3 * arm;
  return `M${x - arm} ${y}H${x - near}M${x + near} ${y}H${x + arm}` +
    `M${x} ${y - arm}V${y - near}M${x} ${y + near}V${y + arm}`;
}

/* ---- sliders over frames; search while typing */

function prepareFrames(figure) {
  const [image, slider, number] = ["img", "input", "output"].map((n) => figure.querySelector(n));
  let wanted = null, busy = false;
  const show = () => {  // one request at a time, and then the newest wish
    if (busy || wanted === null) return;
    busy = true;
    image.alt = image.alt.replace(/\d+/, wanted);
    image.src = `${figure.dataset.frames}${wanted}.jpg`;
    wanted = null;
  };
  image.onload = image.onerror = () => { busy = false; show(); };
  slider.oninput = () => { number.value = wanted = slider.value; show(); };
}

function prepareSearch(form) {
  let timer = null;
  const search = () => {
    const query = new URLSearchParams(new FormData(form));
    for (const [name, value] of [...query]) if (!value) query.delete(name);
    history.replaceState(null, "", `${form.action}?${query}`);
    refresh();
  };
  form.oninput = () => { clearTimeout(timer); timer = setTimeout(search, TYPING_MS); };
  form.onsubmit = (event) => { event.preventDefault(); clearTimeout(timer); search(); };
}

function preparePlot(form) {
  form.querySelectorAll("select").forEach((select) => { select.onchange = () => form.requestSubmit(); });
}

function prepare(root) {
  root.querySelectorAll("figure.frames").forEach(prepareFrames);
  root.querySelectorAll("form.search").forEach(prepareSearch);
  root.querySelectorAll("form.plot").forEach(preparePlot);
}

prepare(document);
addEventListener("pageshow", (event) => {  // back at a page as it was left: the form names another plot
  if (event.persisted) document.querySelectorAll("form.plot").forEach((form) => form.reset());
});
parts().forEach((part) => served.set(part.id, part.innerHTML));
new Set([...document.querySelectorAll("[data-feed]")].map((part) => part.dataset.feed))
  .forEach((feed) => follow(feed, feed === "camera" ? onPicture : (v) => onVersion(feed, v)));
