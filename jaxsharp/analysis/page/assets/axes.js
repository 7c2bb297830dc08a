// Scales and their ticks.

const isNumber = (value) => typeof value === "number";

// From values to shares of an axis; `log` needs them positive, ticks are `whole` numbers where they
// are. A little room at both ends.
function scaleOf({ values, log, whole = false }) {
  const of = log ? Math.log10 : (value) => value;
  const shares = values.map(of);
  let low = shares.reduce((a, b) => Math.min(a, b), Infinity);
  let high = shares.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!shares.length) [low, high] = [0, 1];
  const room = (high - low) * 0.05 || (log ? 0.1 : Math.abs(high) * 0.05 || 0.5);
  [low, high] = [low - room, high + room];
  return { low, high, log, whole, at: (value) => (of(value) - low) / (high - low) };
}

// At most `most` round numbers within a scale.
function ticks(scale, most) {
  const { low, high, log, whole } = scale;
  if (!log) return steps(low, high, most, whole ? 1 : 0);
  if (high - low < 0.5) return steps(10 ** low, 10 ** high, most);
  for (const parts of [[1, 2, 5], [1, 3], [1]]) {
    const found = powers(low, high, parts, 1);
    if (found.length <= most) return found;
  }
  for (let every = 2; ; every += 1) {
    const found = powers(low, high, [1], every);
    if (found.length <= Math.max(most, 1)) return found;
  }
}

function powers(low, high, parts, every) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    if (power % every !== 0) continue;
    for (const part of parts) {
      const value = Number(`${part}e${power}`);
      if (Math.log10(value) >= low && Math.log10(value) <= high) found.push(value);
    }
  }
  return found;
}

function steps(low, high, most, least = 0) {
  const power = Math.floor(Math.log10((high - low) / most));
  const parts = [1, 2, 2.5, 5, 10, 20].map((part) => part * 10 ** power);
  const step = Math.max(least, parts.find((each) => Math.floor(high / each) - Math.ceil(low / each) + 1 <= most));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) {
    found.push(Number((i * step).toPrecision(10)));
  }
  return found;
}

// The label of a tick: short, and exact.
function tickText(value) {
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential() : String(value);
  return text.replace("e+", "e").replaceAll("-", "\u2212");
}
