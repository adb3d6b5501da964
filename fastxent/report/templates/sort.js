"use strict";
// A click on a column's head sorts by it: numbers largest first, text from A; a second click turns it round.
// What is not defined stays at the end.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("number");
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric;
      const sign = descending ? -1 : 1;
      const keyed = Array.from(body.rows, (row) => {
        const cell = row.cells[column];
        return [numeric ? (cell.dataset.v === "" ? NaN : Number(cell.dataset.v)) : cell.textContent, row];
      });
      keyed.sort(([a], [b]) => {
        if (!numeric) return sign * a.localeCompare(b, undefined, { numeric: true });
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return a === b ? 0 : a < b ? -sign : sign;
      });
      body.append(...keyed.map(([, row]) => row));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
