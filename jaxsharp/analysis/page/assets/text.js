// Elements and numbers. Whatever comes from the content becomes a text node or an attribute.

const NAMESPACE = document.getElementById("pen").namespaceURI;

const make = (name, attributes, ...children) =>
  filled(document.createElement(name), attributes, children);

const draw = (name, attributes, ...children) =>
  filled(document.createElementNS(NAMESPACE, name), attributes, children);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A number with three significant digits, more for a larger whole part, fewer for one that has no
// more than two; plain unless far from one.
function written(value) {
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e6) text = String(value);
  else if (size >= 1e5 || size < 1e-4) text = value.toExponential(2);
  else if (Number(value.toPrecision(2)) === value) text = String(value);
  else text = value.toPrecision(Math.max(3, Math.floor(Math.log10(size)) + 1));
  return text.replaceAll("-", "\u2212");
}

// A cell: nothing, a truth value, a number, a text, or a value with the ends of its interval.
function said(cell) {
  if (cell === null || cell === undefined) return "\u2013";
  if (typeof cell === "boolean") return cell ? "yes" : "no";
  if (typeof cell === "number") return written(cell);
  if (!Array.isArray(cell)) return String(cell);
  const [value, low, high, note] = cell;
  const ends = low === null ? "" : ` [${said(low)}, ${said(high)}]`;
  return `${said(value)}${ends}${note ? ` (${note})` : ""}`;
}
