// Sorting, searching and pointing. Without scripts all is there, in the order of the tables as files.
const parts = [...document.querySelectorAll("details.part")], tables = [...document.querySelectorAll(".table table")];
const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

// A link to this page as it stands: which parts are folded, how tables are sorted, what is searched for.
function keep() {
  const open = parts.filter(part => part.open).map(part => part.parentElement.id);
  state.set("open", open.join(" "));
  history.replaceState(null, "", "#" + state);
}

function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
}

// Numbers, then texts; what is missing comes last either way.
function sort(table, column, descending) {
  const body = table.tBodies[0], turn = descending ? -1 : 1;
  const compared = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) * turn : typeof a === "number" ? -1 : 1;
  const rows = [...body.rows].map(row => [value(row, column), row]);
  rows.sort((a, b) => (a[0] === "–") - (b[0] === "–") || compared(a[0], b[0]));
  body.append(...rows.map(pair => pair[1]));
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

tables.forEach((table, number) => {
  if (!table.tHead || table.tBodies[0].rows.length < 3) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = table.tBodies[0].rows[0].cells[column].dataset.v !== undefined ? "descending" : "ascending";
      const now = head.getAttribute("aria-sort");
      const descending = now ? now === "ascending" : first === "descending";
      sort(table, column, descending);
      state.set("t" + number, column + (descending ? "d" : "a"));
      keep();
    });
  });
});

// The table of checkpoints: searched by its rows' words, and pointed at from the picture and back.
const found = document.querySelector("table.find"), rows = found ? [...found.tBodies[0].rows] : [];
const search = document.createElement("input");
function show() {
  const words = search.value.toLowerCase().split(/\s+/);
  rows.forEach(row => { row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)); });
}
if (found) {
  Object.assign(search, {type: "search", className: "find", placeholder: "search", value: state.get("find") || ""});
  search.setAttribute("aria-label", "Search the checkpoints");
  found.parentElement.before(search);
  search.addEventListener("input", () => { show(); state.set("find", search.value); keep(); });
  show();
}
const marks = [...document.querySelectorAll(".first .mark")];
marks.forEach(mark => {
  const row = rows.find(row => row.cells[0].textContent.trim() === mark.dataset.name);
  if (!row) return;
  const point = on => [mark, row].forEach(one => one.classList.toggle("pointed", on));
  [mark, row].forEach(one => {
    one.addEventListener("mouseenter", () => point(true));
    one.addEventListener("mouseleave", () => point(false));
  });
  mark.addEventListener("click", () => row.scrollIntoView({block: "center"}));
});

// What a link says, then what is done.
if (state.has("open")) parts.forEach(part => { part.open = state.get("open").split(" ").includes(part.parentElement.id); });
state.forEach((how, key) => {
  const table = tables[key.slice(1)], column = parseInt(how);
  if (/^t\d+$/.test(key) && table && table.tHead && table.tHead.rows[0].cells[column]) sort(table, column, how.endsWith("d"));
});
parts.forEach(part => part.addEventListener("toggle", keep));
document.querySelectorAll("nav a").forEach(link => link.addEventListener("click", event => {
  const section = document.querySelector(link.getAttribute("href"));
  section.querySelector("details.part").open = true;
  section.scrollIntoView();
  event.preventDefault();
}));
