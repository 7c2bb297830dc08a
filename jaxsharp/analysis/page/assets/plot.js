// Figures of points and curves, in which the nearest run is found.

const RADIUS = 4.2;
const REACH = 28; // pixels to the nearest run
// Outlines of unit size; with the colours they tell as many kinds apart as their numbers multiply.
const SHAPES = [
  "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
  "M-.9-.9H.9V.9H-.9Z",
  "M0-1.1L1.05.85H-1.05Z",
  "M0-1.25L1.25 0L0 1.25L-1.25 0Z",
  "M0 1.1L1.05-.85H-1.05Z",
  "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
  "M0-1.3L.36-.4L1.24-.4L.55.2L.8 1.1L0 .6L-.8 1.1L-.55.2L-1.24-.4L-.36-.4Z",
  "M-1.1 0L.85-1.05V1.05Z",
  "M1.1 0L-.85-1.05V1.05Z",
];

// A mark of a kind: colour and shape go together, and after all colours the pairs shift by one.
function mark({ kind, hollow }, x, y, size = RADIUS) {
  const shape = SHAPES[(kind + Math.floor(kind / LOOKS)) % SHAPES.length];
  return draw("path", {
    class: `mark k${kind % LOOKS}${hollow ? " hollow" : ""}`,
    d: shape,
    transform: `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})`,
    "vector-effect": "non-scaling-stroke",
  });
}

// Axes with ticks in an element; `x` and `y` are {label, log, whole, values}.
function frame(host, { x, y, width, height }) {
  const scales = { x: scaleOf(x), y: scaleOf(y) };
  const [top, bottom] = [8, height - 38];
  const rows = ticks(scales.y, Math.max(2, Math.floor((bottom - top) / 38)));
  const left = 26 + 6.5 * Math.max(1, ...rows.map((row) => tickText(row).length));
  const right = width - 14;
  const columns = ticks(scales.x, Math.max(2, Math.floor((right - left) / 62)));
  const px = (value) => left + scales.x.at(value) * (right - left);
  const py = (value) => bottom - scales.y.at(value) * (bottom - top);
  const svg = draw("svg", {
    class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${y.label} against ${x.label}`,
  });
  const at = (place, text, attributes) => svg.append(
    draw("text", { x: place[0], y: place[1], "text-anchor": "middle", ...attributes }, text),
  );
  for (const value of columns) {
    svg.append(draw("line", { class: "rule", x1: px(value), x2: px(value), y1: top, y2: bottom }));
    at([px(value), bottom + 14], tickText(value));
  }
  for (const value of rows) {
    svg.append(draw("line", { class: "rule", x1: left, x2: right, y1: py(value), y2: py(value) }));
    at([left - 5, py(value) + 4], tickText(value), { "text-anchor": "end" });
  }
  svg.append(draw("path", { class: "edge", fill: "none", d: `M${left} ${top}V${bottom}H${right}` }));
  at([(left + right) / 2, height - 6], x.label);
  at([0, 0], y.label, { transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)` });
  if (!x.values.length) at([(left + right) / 2, (top + bottom) / 2], "no run to draw");
  host.append(svg);
  return { svg, px, py, width };
}

// Tell `hover` which run is nearest to the pointer; `places` are [run, x, y] in the figure's units.
function listen(svg, width, places, hover) {
  function nearest(event) {
    const box = svg.getBoundingClientRect();
    const unit = width / box.width;
    const [x, y] = [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
    let [found, least] = [null, (REACH * unit) ** 2];
    for (const [run, px, py] of places) {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [found, least] = [run, distance];
    }
    hover(found, event);
  }
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", () => hover(null));
}

// Points of runs, {run, x, y, error}, with errors to both sides; `lookOf(run)` is their mark.
function scatter(host, spec, points, lookOf, hover) {
  const { svg, px, py, width } = frame(host, spec);
  const size = RADIUS * Math.min(1, (150 / Math.max(points.length, 1)) ** 0.2);
  const places = points.map(({ run, x, y }) => [run, px(x), py(y)]);
  points.forEach(({ run, x, error }, i) => {
    if (!isNumber(error) || (spec.x.log && x - error <= 0)) return;
    const [from, to] = [px(x - error), px(x + error)];
    if (to - from > 2 * size) svg.append(curve(run, lookOf, [[from, places[i][2]], [to, places[i][2]]]));
  });
  for (const [run, x, y] of places) svg.append(mark(lookOf(run), x, y, size));
  listen(svg, width, places, hover);
  return point(svg, (run) => places.filter((place) => place[0] === run).map(
    ([, x, y]) => draw("circle", { class: "here", cx: x, cy: y, r: 8 }),
  ));
}

// Curves of runs, {run, test, points: [[x, y], ...]}; the end of each has the mark of its run.
function curves(host, spec, lines, lookOf, hover) {
  const { svg, px, py, width } = frame(host, spec);
  const drawn = lines.map(({ run, test, points }) => {
    const places = points.map(([x, y]) => [px(x), py(y)]);
    svg.append(curve(run, lookOf, places, test));
    return { run, test, places };
  });
  for (const { run, places } of drawn) svg.append(mark(lookOf(run), ...places.at(-1), 3));
  const places = drawn.flatMap((line) => line.places.map((place) => [line.run, ...place]));
  listen(svg, width, places, hover);
  return point(svg, (run) => drawn.filter((line) => line.run === run).map(
    (line) => curve(run, lookOf, line.places, line.test, "here"),
  ));
}

function curve(run, lookOf, places, test = false, also = "") {
  const d = places.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return draw("path", { class: `curve k${lookOf(run).kind % LOOKS} ${test ? "test" : ""} ${also}`, d });
}

// What draws the run that is pointed at above all others, or none.
function point(svg, partsOf) {
  const above = draw("g");
  svg.append(above);
  return (run) => above.replaceChildren(...(run === null ? [] : partsOf(run)));
}
