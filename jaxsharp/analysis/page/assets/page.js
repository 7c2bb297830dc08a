// The page from its content.

const content = JSON.parse(document.getElementById("content").textContent);
const LOOKS = content.looks;
const tip = document.getElementById("tip");

function hideTip() {
  tip.hidden = true;
}

function showTip(event, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const [x, y] = [event.clientX + 14, event.clientY + 14];
  tip.style.left = `${Math.max(4, Math.min(x, window.innerWidth - width - 4))}px`;
  tip.style.top = `${y + height > window.innerHeight ? Math.max(4, event.clientY - height - 14) : y}px`;
}

function tableSection({ title, heads, rows, note }) {
  const made = table(heads);
  made.show(rows.map((cells) => ({ cells })));
  return make(
    "div", null, make("h3", null, title),
    make("div", { class: rows.length > 40 ? "wide tall" : "wide", tabindex: 0 }, made.element),
    note ? make("p", { class: "note" }, note) : null,
  );
}

function found(study, several) {
  return make(
    "section", null,
    several ? make("h2", null, study.name) : null,
    make("p", { class: "headline" }, study.headline),
    ...study.remarks.map((line) => make("p", { class: "note" }, line)),
    ...study.tables.filter(({ rows }) => rows.length).map(tableSection),
  );
}

function made(study, several) {
  const facts = study.facts.map(([title, rows]) => make(
    "div", null, make("h3", null, title), make("table", null, make("tbody", null, ...rows.map(
      ([name, value]) => make(
        "tr", null, make("th", { scope: "row", class: "words" }, name),
        make("td", { class: "words long" }, said(value)),
      ),
    ))),
  ));
  return make(
    "section", null,
    make("h2", null, several ? `How ${study.name} was made` : "How it was made"),
    study.command ? make("pre", null, study.command) : null,
    make("div", { class: "facts" }, ...facts),
  );
}

const several = content.studies.length > 1;
const runs = explorer(content);
document.getElementById("page").append(
  make("h1", null, document.title),
  ...content.studies.map((study) => found(study, several)),
  runs.element,
  ...content.studies.map((study) => made(study, several)),
);
runs.start();

let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return; // a phone's address bar changes the height alone
  width = window.innerWidth;
  runs.render();
});
