// Tables that are sorted by a click on a heading.

const keyOf = (cell) => (Array.isArray(cell) ? cell[0] : typeof cell === "boolean" ? +cell : cell);

// What is missing comes last whichever way; numbers before texts.
function compare(one, other, sign) {
  const [a, b] = [keyOf(one), keyOf(other)];
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  if (typeof a !== typeof b) return sign * (typeof a === "number" ? -1 : 1);
  return sign * a.localeCompare(b, undefined, { numeric: true });
}

// `show(rows)` fills the table; a row is {cells, run}, and `hover(run)` hears what is pointed at.
function table(heads, { most = Infinity, hover = null } = {}) {
  const body = make("tbody");
  const more = make("p", { class: "note" });
  let [rows, sorted, sign, words] = [[], null, 1, []];
  const headings = heads.map((head, i) => {
    const sort = () => {
      sign = sorted === i ? -sign : 1;
      sorted = i;
      fill();
    };
    return make("th", { scope: "col" }, make("button", { type: "button", click: sort }, head));
  });
  const element = make(
    "table", null, make("thead", null, make("tr", null, ...headings)), body,
  );

  function fill() {
    const order = rows.map((_, i) => i);
    if (sorted !== null) {
      order.sort((i, j) => compare(rows[i].cells[sorted], rows[j].cells[sorted], sign) || i - j);
    }
    headings.forEach((heading, i) => {
      heading.setAttribute("aria-sort", i !== sorted ? "none" : sign > 0 ? "ascending" : "descending");
      heading.classList.toggle("words", words[i]);
    });
    body.replaceChildren(...order.slice(0, most).map((i) => rowOf(rows[i])));
    const left = rows.length - most;
    more.textContent = left > 0 ? `${left} more rows; a filter or another order shows them.` : "";
  }

  function rowOf({ cells, run }) {
    const inside = cells.map((cell, i) => {
      const text = said(cell);
      const kind = (words[i] ? "words" : "") + (text.length > 48 ? " long" : "");
      return make("td", { class: kind }, text);
    });
    if (!hover) return make("tr", null, ...inside);
    return make(
      "tr", { "data-run": run, pointerenter: () => hover(run), pointerleave: () => hover(null) },
      ...inside,
    );
  }

  function show(found) {
    rows = found;
    words = heads.map((_, i) => {
      const present = rows.map((row) => keyOf(row.cells[i])).filter((key) => key !== null);
      return present.some((key) => typeof key === "string" && !/^\u2212?\u221e$/.test(key));
    });
    fill();
  }

  return { element, more, show };
}
