// The runs: filters, figures with axes to choose, curves, and a table of what is left.

const EVERY = "each measure";

function explorer({ columns, runs, curves: followed, gap }) {
  const count = Object.values(runs)[0].length;
  const all = Array.from({ length: count }, (_, run) => run);
  const byName = new Map(columns.map((column) => [column.name, column]));
  const measures = columns.filter((column) => column.kind === "measure");
  const labels = columns.filter(({ label }) => label);
  const axes = columns.filter((column) => column.number);
  const hidden = new Set(); // kinds that the legend has switched off
  const filters = new Map();
  let pointers = []; // what draws the run that is pointed at in each figure
  const place = (name) => make("div", { id: name });
  const [panels, legend, curvesAt] = [place("scatter"), place("legend"), place("curves")];
  panels.className = "panels";
  legend.className = "legend";
  const note = make("p", { class: "note", id: "drawn" });
  const curveNote = make("p", { class: "note" });

  // Texts in the order of the runs, as in all figures; numbers by their size.
  function levels(name) {
    const found = [...new Set(runs[name])];
    return found.some(isNumber) ? found.sort((a, b) => compare(a, b, 1)) : found;
  }

  // Controls; each change draws anew.

  const choice = (id, text, options, chosen, change = render) => {
    const select = make("select", { id, change }, ...options.map(
      ([value, label]) => make("option", { value, selected: value === chosen }, label),
    ));
    return { select, label: make("label", null, text, select) };
  };
  const named = (found) => found.map(({ name, words }) => [name, words]);
  const box = (id, text) => {
    const input = make("input", { type: "checkbox", id, change: render });
    return { input, label: make("label", null, input, text) };
  };
  const each = measures.length > 1 ? [["", EVERY]] : [];
  const x = choice("x", "x", [...each, ...named(axes)], each.length ? "" : (measures[0] || axes[0]).name, rescale);
  const y = choice("y", "y", named(axes), gap, rescale);
  const [logX, logY] = [box("log-x", "logarithmic x"), box("log-y", "logarithmic y")];
  const colour = choice("colour", "colour and shape", named(labels), byName.has("optimizer") ? "optimizer" : labels[0].name, recolour);
  const quantities = quantitiesOf(followed);
  const quantity = choice("curve", "curves of", quantities.map(({ name }) => [name, name]), "loss");
  const logCurve = box("log-curve", "logarithmic");
  logCurve.input.checked = true;
  const selects = labels.filter(({ name }) => levels(name).length > 1).map(({ name, words }) => {
    const options = [["", "all"], ...levels(name).map((level, i) => [i, said(level)])];
    const made = choice(`filter-${name}`, words, options, "", () => {
      const at = made.select.value;
      if (at === "") filters.delete(name);
      else filters.set(name, levels(name)[at]);
      render();
    });
    return made.label;
  });

  // Which runs are left, and how they look.

  const kinds = () => levels(colour.select.value);
  const filtered = () => all.filter(
    (run) => [...filters].every(([name, level]) => runs[name][run] === level),
  );

  function lookOf(kind) {
    return (run) => ({ kind: kind[run], hollow: runs.ended[run] === "unconverged" });
  }

  const valueOf = (name, run) => {
    const unfinished = runs[`${name}_unfinished`];
    return unfinished && unfinished[run] ? null : runs[name][run];
  };

  function usuallyLog(names) {
    const found = names.flatMap((name) => all.map((run) => valueOf(name, run)).filter(isNumber));
    const spread = Math.max(...found) / Math.min(...found);
    const measured = names.every((name) => byName.get(name).kind === "measure");
    return found.length > 0 && Math.min(...found) > 0 && (measured || spread >= 20);
  }

  const xNames = () => (x.select.value ? [x.select.value] : measures.map(({ name }) => name));

  function rescale() {
    logX.input.checked = usuallyLog(xNames());
    logY.input.checked = usuallyLog([y.select.value]);
    render();
  }

  function recolour() {
    hidden.clear();
    render();
  }

  // Figures.

  function render() {
    const order = kinds();
    const kind = all.map((run) => order.indexOf(runs[colour.select.value][run]));
    const left = filtered().filter((run) => !hidden.has(kind[run]));
    const look = lookOf(kind);
    pointers = [];
    drawLegend(kind);
    const names = xNames();
    const hosts = names.map(() => make("div"));
    panels.replaceChildren(...hosts); // before any is drawn: how many there are decides the width
    const missing = names.map((name, i) => drawPanel(hosts[i], name, left, look, names.length < 2));
    note.textContent = noteOf(left.length, missing);
    drawCurves(left, look);
    list.show(left.map((run) => ({ run, cells: columns.map((column) => cellOf(column, run)) })));
  }

  function noteOf(num, missing) {
    const worst = Math.max(0, ...missing);
    const lost = worst ? `; up to ${worst} of them have no value that this axis can show` : "";
    return `${num} of ${count} runs${lost}. Hollow: not converged. Bars: error of the measure.`;
  }

  function drawPanel(host, name, left, look, alone) {
    const points = left
      .filter((run) => runs.ended[run] !== "diverged")
      .map((run) => ({ run, x: valueOf(name, run), y: valueOf(y.select.value, run), error: (runs[`${name}_error`] || [])[run] }))
      .filter((each) => isNumber(each.x) && isNumber(each.y))
      .filter((each) => !(logX.input.checked && each.x <= 0) && !(logY.input.checked && each.y <= 0));
    const width = widthOf(host, alone ? 760 : 560);
    const spec = {
      width, height: Math.min(alone ? 420 : 320, width * 0.8),
      x: { label: byName.get(name).long, log: logX.input.checked, values: points.map((each) => each.x) },
      y: { label: byName.get(y.select.value).long, log: logY.input.checked, values: points.map((each) => each.y) },
    };
    pointers.push(scatter(host, spec, points, look, hover));
    return left.length - points.length;
  }

  // The width that an element has for a figure, up to one at which it reads well.
  function widthOf(host, most) {
    host.style.maxWidth = `${most}px`;
    return Math.max(260, Math.min(host.clientWidth || 340, most));
  }

  function drawLegend(kind) {
    const present = new Set(filtered().map((run) => kind[run]));
    const sample = (look) => draw("svg", { viewBox: "-8 -8 16 16" }, mark(look, 0, 0, 5));
    legend.replaceChildren(...kinds().map((level, i) => {
      const toggle = () => {
        if (!hidden.delete(i)) hidden.add(i);
        render();
      };
      const on = !hidden.has(i);
      return present.has(i) && make(
        "button", { type: "button", "aria-pressed": String(on), click: toggle }, sample({ kind: i }), said(level),
      );
    }).filter(Boolean));
  }

  function drawCurves(left, look) {
    curvesAt.replaceChildren();
    if (!quantities.length) return;
    const { parts } = quantities.find(({ name }) => name === quantity.select.value) || quantities[0];
    const log = logCurve.input.checked;
    const lines = [];
    for (const run of left) {
      for (const { at, test } of followed.runs[run] ? parts : []) {
        const [epochs, ...values] = followed.runs[run];
        const points = epochs.map((epoch, i) => [epoch, values[at] && values[at][i]])
          .filter(([, value]) => isNumber(value) && (!log || value > 0));
        if (points.length) lines.push({ run, test, points });
      }
    }
    const width = widthOf(curvesAt, 1100);
    const flat = lines.flatMap(({ points }) => points);
    const spec = {
      width, height: Math.min(440, width * 0.8),
      x: { label: "epoch", log: false, whole: true, values: flat.map(([epoch]) => epoch) },
      y: { label: quantity.select.value, log, values: flat.map(([, value]) => value) },
    };
    pointers.push(curves(curvesAt, spec, lines, look, hover));
    const edges = parts.some(({ edge }) => edge) ? "Dashed: the edge of stability. " : "";
    const dashes = edges || (parts.some(({ test }) => test) ? "Dashed: test data. " : "");
    const thin = followed.epochs ? `Of each run at most ${followed.epochs} epochs are drawn; history.csv has all.` : "";
    curveNote.textContent = dashes + thin;
  }

  // What is said of a run.

  function cellOf({ name, kind }, run) {
    if (kind !== "measure") return runs[name][run];
    const note = runs[`${name}_unfinished`][run] ? "unfinished" : "";
    return note ? [runs[name][run], null, null, note] : runs[name][run];
  }

  function hover(run, event) {
    pointers.forEach((show) => show(run));
    list.element.querySelectorAll(".marked").forEach((row) => row.classList.remove("marked"));
    if (run === null) return hideTip();
    const row = list.element.querySelector(`tr[data-run="${run}"]`);
    if (row) row.classList.add("marked");
    if (!event) return hideTip();
    const told = ({ kind, name }) => kind === "setting" && runs[name][run] !== null;
    const head = columns.filter(told).map(({ name, words, number }) =>
      (number ? `${words} ${said(runs[name][run])}` : said(runs[name][run])));
    const lines = columns.filter(({ kind }) => kind !== "setting").map((column) => {
      const error = (runs[`${column.name}_error`] || [])[run];
      const after = isNumber(error) ? ` \u00b1 ${said(Number(error.toPrecision(2)))}` : "";
      return make("div", null, `${column.words}: ${said(cellOf(column, run))}${after}`);
    });
    showTip(event, make("b", null, head.join(", ")), ...lines);
  }

  const list = table(columns.map(({ words }) => words), { most: 1000, hover: (run) => hover(run) });
  const element = make(
    "section", { id: "runs" },
    make("h2", null, "Runs"),
    make("div", { class: "controls", id: "filters" }, ...selects),
    make("div", { class: "controls" }, x.label, logX.label, y.label, logY.label, colour.label),
    legend, panels, note,
    ...(quantities.length ? [
      make("h3", null, "Training"),
      make("div", { class: "controls" }, quantity.label, logCurve.label), curvesAt, curveNote,
    ] : []),
    make("h3", null, "Every run"),
    make("div", { class: "wide tall", tabindex: 0, id: "list" }, list.element), list.more,
  );
  return { element, render, start: rescale };
}

// What curves there are: of the loss and the accuracy on both splits, and of what else is followed, with its edges.
function quantitiesOf({ names, runs }) {
  const found = new Map();
  names.forEach((name, at) => {
    if (!runs.some((run) => run && run[at + 1])) return;
    const [, split, quantity] = /^(train|test)_(.+)$/.exec(name) || [null, "train", name];
    const [, whose] = /^(.+?)_edge(?:_large)?$/.exec(quantity) || [];
    const edge = names.includes(whose);
    const words = (edge ? whose : quantity).replaceAll("_", " ");
    if (!found.has(words)) found.set(words, []);
    found.get(words).push({ at, test: split === "test" || edge, edge });
  });
  return [...found].map(([name, parts]) => ({ name, parts }));
}
