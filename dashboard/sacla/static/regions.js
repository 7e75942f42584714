/* Regions of interest on the mean image: shown, and drawn with the mouse where the page may operate.
   Coordinates are pixels of the detector; the center of a pixel is at whole numbers. */
"use strict";

const LOOK_MS = 1000;
const SVG = "http://www.w3.org/2000/svg";

function parseRegions(text) {
  return text.split(/\s+/).filter(Boolean).map((each) => {
    const [name, detector, corners] = each.split(":");
    return { name, detector, points: corners.split(";").filter(Boolean).map((c) => c.split(",").map(Number)) };
  });
}

function regionsOn(figure) {
  const part = (name) => document.querySelector(`[data-regions=${name}]`);
  const image = figure.querySelector("img"), svg = figure.querySelector("svg");
  const state = { now: null, regions: [], kind: null, points: [], pointer: null, shownNumber: null };

  async function look() {
    try {
      const answer = await fetch(figure.dataset.now, { cache: "no-store" });
      if (answer.ok) show(await answer.json());
    } catch (error) {  // the server is away: the next look may find it
      console.warn(error);
    }
    setTimeout(look, LOOK_MS);
  }

  function show(now) {
    state.now = now;
    state.regions = parseRegions(now.regions);
    part("tools").hidden = !now.operate;
    const [rows, columns] = now.shape;
    if (rows && now.number !== state.shownNumber) {
      state.shownNumber = now.number;
      image.src = `${figure.dataset.image}?n=${now.number}`;
      image.hidden = false;
      image.style.aspectRatio = `${columns} / ${rows}`;  // nothing moves when the picture comes
      svg.setAttribute("viewBox", `-0.5 -0.5 ${columns * now.step} ${rows * now.step}`);
      svg.setAttribute("preserveAspectRatio", "none");
      part("caption").textContent =
        `${now.detectors.split(",")[0]}, mean of ${now.shots} shots, eV; colors from the 1st percentile to the 99.5th`;
    }
    draw();
  }

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  }

  function draw() {
    svg.replaceChildren();
    const size = state.now ? state.now.shape[1] * state.now.step / 28 : 14;
    for (const region of state.regions) {
      svg.append(element("polygon", { points: region.points.map((p) => p.join()).join(" ") }));
      const [x, y] = region.points[0];
      svg.append(element("text", { x: x + size / 3, y: y + size, "font-size": size, "stroke-width": size / 5 }, region.name));
    }
    if (state.points.length) {
      const points = state.pointer ? [...state.points, state.pointer] : state.points;
      const shown = state.kind === "rectangle" && points.length > 1 ? [...corners(points[0], points[1]), points[0]] : points;
      svg.append(element("polyline", { points: shown.map((p) => p.join()).join(" ") }));
    }
    svg.classList.toggle("drawing", state.kind !== null);
    list();
  }

  function list() {
    const names = state.regions.map((r) => r.name).join();
    const ul = part("list");
    const key = `${names}|${state.now && state.now.operate}`;
    if (ul.dataset.key === key) return;
    ul.dataset.key = key;
    ul.replaceChildren(...state.regions.map((region) => {
      const li = document.createElement("li");
      li.textContent = `${region.name} `;
      if (state.now.operate && state.regions.length > 1) {
        const remove = document.createElement("button");
        remove.type = "button";
        remove.textContent = "Remove";
        remove.setAttribute("aria-label", `Remove ${region.name}`);
        remove.onclick = () => put({ remove: region.name });
        li.append(remove);
      }
      return li;
    }));
  }

  const corners = ([xa, ya], [xb, yb]) => [[xa, ya], [xb, ya], [xb, yb], [xa, yb]];

  function place(event) {
    const box = svg.getBoundingClientRect(), [rows, columns] = state.now.shape, step = state.now.step;
    const clamp = (value, most) => Math.min(Math.max(value, -0.5), most - 0.5);
    return [
      clamp((event.clientX - box.left) / box.width * columns * step - 0.5, columns * step),
      clamp((event.clientY - box.top) / box.height * rows * step - 0.5, rows * step),
    ];
  }

  function begin(kind) {
    state.kind = kind;
    state.points = [];
    part("hint").textContent = kind === "rectangle" ? "drag from corner to corner"
      : "click the corners; a double click or Enter ends, Escape gives up";
    draw();
  }

  function end() {
    state.kind = null;
    state.points = [];
    state.pointer = null;
    part("hint").textContent = "";
    draw();
  }

  function finish(points) {
    const detector = state.now.detectors.split(",")[0];
    const placed = points.map(([x, y]) => `${+x.toFixed(1)},${+y.toFixed(1)}`).join(";");
    end();
    put({ add: `${detector}:${placed}` });
  }

  async function put(wanted) {
    part("error").textContent = "";
    const answer = await fetch(figure.dataset.put, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted),
    });
    if (!answer.ok) { part("error").textContent = `not put: ${answer.status} ${answer.statusText}`; return; }
    const found = await answer.json();
    part("error").textContent = found.error || "";
    if (found.regions !== undefined) { state.now.regions = found.regions; show(state.now); }
  }

  svg.onpointerdown = (event) => {
    if (!state.kind) return;
    event.preventDefault();
    if (state.kind === "rectangle") { state.points = [place(event)]; svg.setPointerCapture(event.pointerId); }
  };
  svg.onpointermove = (event) => {
    if (!state.kind || !state.points.length) return;
    state.pointer = place(event);
    draw();
  };
  svg.onpointerup = (event) => {
    if (state.kind !== "rectangle" || !state.points.length) return;
    const [a, b] = [state.points[0], place(event)];
    if (Math.abs(a[0] - b[0]) < 1 || Math.abs(a[1] - b[1]) < 1) { end(); return; }
    finish(corners(a, b));
  };
  svg.onclick = (event) => {
    if (state.kind === "polygon" && event.detail === 1) { state.points.push(place(event)); draw(); }
  };
  function close(event) {
    if (state.kind !== "polygon") return;
    event.preventDefault();
    if (state.points.length >= 3) finish(state.points); else part("hint").textContent = "a polygon has at least three corners";
  }
  svg.ondblclick = close;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") end();
    if (event.key === "Enter") close(event);
  });
  document.querySelectorAll("[data-draw]").forEach((button) => {
    const puts = { reset: { reset: true }, run: { run: true }, stop: { run: false } }[button.dataset.draw];
    button.onclick = () => puts ? put(puts) : begin(button.dataset.draw);
  });
  look();
}

document.querySelectorAll("figure.regions").forEach(regionsOn);
