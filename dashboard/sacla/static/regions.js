/* Regions of interest on the mean image: shown, and drawn with the mouse where the page may operate.
   Coordinates are pixels of the detector; the center of a pixel is at whole numbers. */
"use strict";

const LOOK_MS = 1000;
const RING_PX = [60, 120, 240];
const SVG = "http://www.w3.org/2000/svg";

function parseRegions(text, outlines) {
  return text.split(/\s+/).filter(Boolean).map((each) => {
    const [name, detector, corners] = each.split(":");
    if (corners.startsWith("mask=")) return { name, detector, curves: outlines[name] || [] };
    return { name, detector, curves: [corners.split(";").filter(Boolean).map((c) => c.split(",").map(Number))] };
  });
}

function regionsOn(figure) {
  const part = (name) => document.querySelector(`[data-regions=${name}]`);
  const image = figure.querySelector("img"), svg = figure.querySelector("svg");
  const none = part("caption").textContent;
  const state = { now: null, regions: [], kind: null, points: [], pointer: null, shownNumber: null, detector: null, plotted: null, away: false };

  async function look() {
    try {
      const answer = await fetch(figure.dataset.now, { cache: "no-store" });
      if (state.away) part("error").textContent = "";  // what was not put while it was away
      state.away = false;
      if (answer.ok) show(await answer.json());
    } catch (error) {  // the server is away: the next look may find it
      state.away = true;
      console.warn(error);
    }
    setTimeout(look, LOOK_MS);
  }

  function show(now) {
    state.now = now;
    figure.classList.toggle("stale", Boolean(now.status));
    state.regions = parseRegions(now.regions, now.outlines);
    part("tools").hidden = !now.operate;
    const plotted = `${state.regions.map((each) => each.name)}|${now.region}`;
    if (plotted !== state.plotted) {
      state.plotted = plotted;
      select("region", state.regions.map((each) => each.name), now.region);
    }
    if (now.detector !== state.detector) {  // the corners of a drawing are those of the tile before
      state.detector = now.detector;
      choices(now);
      end();
    }
    const [rows, columns] = now.shape;
    if (!rows && !now.status) {  // the IOC has begun again
      image.hidden = true;
      state.shownNumber = null;
      part("autocorrelation").querySelector("img").removeAttribute("src");
      part("caption").textContent = none;
    }
    if (rows && now.number !== state.shownNumber) {
      state.shownNumber = now.number;
      image.src = `${figure.dataset.image}?n=${now.number}`;
      image.hidden = false;
      autocorrelation();
      image.style.aspectRatio = `${columns} / ${rows}`;  // nothing moves when the picture comes
      svg.setAttribute("viewBox", `-0.5 -0.5 ${columns * now.step} ${rows * now.step}`);
      svg.setAttribute("preserveAspectRatio", "none");
      part("caption").textContent =
        `${now.detector}, mean of ${now.shots} shots; colors from ${now.colors.join(" to ")} eV (1st and 99.5th percentile)`;
    }
    draw();
  }

  function choices(now) {
    const names = now.detectors.split(",").filter(Boolean);
    select("detector", names, now.detector);
    part("detector").hidden = names.length < 2;
  }

  function select(name, options, value) {
    const list = part(name), shown = [...list.options].map((each) => each.value);
    if (shown.join(" ") !== options.join(" ")) {  // a new list would close the open menu
      list.replaceChildren(...options.map((each) => new Option(each, each)));
    }
    list.value = value;
  }

  function overlays(size) {
    const now = state.now;
    if (!now || !now.shape[0] || !part("overlays").checked) return;
    const [x, y] = now.center || [null, null];
    if (x !== null && y !== null) {
      for (const r of RING_PX) svg.append(element("circle", { cx: x, cy: y, r }));
    }
    if (now.mass) {
      const [cx, cy] = now.mass, half = size / 2;
      svg.append(element("path", { class: "mass", d: `M${cx - half},${cy}h${size}M${cx},${cy - half}v${size}` }));
    }
  }

  function autocorrelation() {
    const fold = part("autocorrelation"), shown = fold.querySelector("img");
    if (fold.open && state.shownNumber !== null) shown.src = `${shown.dataset.image}?n=${state.shownNumber}`;
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
    for (const region of state.regions.filter((each) => each.detector === state.detector && each.curves.length)) {
      const closed = region.curves.map((points) => `M${points.map((p) => p.join()).join("L")}Z`);
      svg.append(element("path", { d: closed.join(""), "fill-rule": "evenodd" }));
      const [x, y] = region.curves[0][0];
      svg.append(element("text", { x: x + size / 3, y: y + size, "font-size": size, "stroke-width": size / 5 }, region.name));
    }
    overlays(size);
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
    const key = `${names}|${state.detector}|${state.now && state.now.operate}`;
    if (ul.dataset.key === key) return;
    ul.dataset.key = key;
    ul.replaceChildren(...state.regions.map((region) => {
      const li = document.createElement("li");
      li.textContent = region.detector === state.detector ? `${region.name} ` : `${region.name} (${region.detector}) `;
      if (state.now.operate && state.regions.length > 1) {
        const remove = document.createElement("button");
        remove.type = "button";
        remove.textContent = "Remove";
        remove.setAttribute("aria-label", `Remove ${region.name}`);
        remove.onclick = async () => {  // a second click would ask for a region that is gone
          remove.disabled = true;
          await put({ remove: region.name });
          remove.disabled = false;
        };
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
    const placed = points.map(([x, y]) => `${+x.toFixed(1)},${+y.toFixed(1)}`).join(";");
    end();
    put({ add: `${state.detector}:${placed}` });
  }

  async function put(wanted) {
    part("error").textContent = "";
    let found;
    try {
      const answer = await fetch(figure.dataset.put, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted),
      });
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      found = await answer.json();
    } catch (error) {  // refused, or the server is away
      part("error").textContent = `not put: ${error.message}`;
      choices(state.now);
      state.plotted = null;
      show(state.now);  // the selects have what holds
      return;
    }
    part("error").textContent = found.error || "";
    if (found.regions !== undefined) { state.now.regions = found.regions; show(state.now); }
  }

  part("overlays").onchange = draw;
  part("autocorrelation").ontoggle = autocorrelation;
  part("region").onchange = () => put({ plot: part("region").value });
  part("detector").onchange = () => put({ show: part("detector").value });
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
