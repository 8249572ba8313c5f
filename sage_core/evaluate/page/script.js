"use strict";
const all = (query) => [...document.querySelectorAll(query)];
const show = document.getElementById("show");
const veils = all(".veil");
const shown = (veil) => veil.getAttribute("aria-pressed") === "true";
const reveal = (veil, on) => veil.setAttribute("aria-pressed", String(on));
const label = () => {
  if (!show) return;
  const whole = veils.every(shown);
  show.setAttribute("aria-pressed", String(whole));
  show.textContent = whole ? "Hide all pictures" : "Show all pictures";
};
for (const veil of veils) veil.addEventListener("click", () => { reveal(veil, !shown(veil)); label(); });
if (show) show.addEventListener("click", () => {
  const on = !veils.every(shown);
  for (const veil of veils) reveal(veil, on);
  label();
});

const body = document.querySelector(".summary tbody");
const headings = all(".summary thead th");
const key = (row, column) => {
  const cell = row.children[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
};
const compare = (a, b) => {
  if (a === "\u2013" || b === "\u2013") return 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
};
headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of headings) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a, column), key(b, column)];
    const missing = (x === "\u2013") - (y === "\u2013");
    return missing || (down ? -compare(x, y) : compare(x, y));
  });
  body.append(...rows);
}));

const filter = document.getElementById("filter");
if (filter) filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const left = new Set();
  for (const row of body.rows) {
    const text = [...row.children].slice(0, 3).map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    if (!row.hidden) left.add(row.dataset.of);
  }
  for (const part of all("section[data-of]")) {
    part.hidden = !part.dataset.of.split(" ").some((one) => left.has(one));
  }
  document.getElementById("count").textContent = `${left.size} of ${body.rows.length}`;
});

let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open])");
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
