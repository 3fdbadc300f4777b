// Filters and sorts the table of results. The page is complete without this script, which creates no
// elements from text, requests nothing and stores nothing.
"use strict";
(() => {
  const table = document.querySelector(".matrix");
  if (!table) return;
  const body = table.tBodies[0];
  const original = [...body.rows];
  const field = (name) => document.getElementById(`filter-${name}`);
  const [text, outcome, low, high, shown] = ["text", "outcome", "low", "high", "shown"].map(field);

  // The text of a row, collected on first use.
  const texts = new Map();
  const textOf = (row) => {
    if (!texts.has(row)) {
      const parts = [row.cells[0].textContent];
      for (const cell of row.querySelectorAll("td")) {
        const inside = cell.firstElementChild;
        if (cell.className === "failed") parts.push(inside.title);
        const details = document.getElementById(inside.getAttribute("popovertarget"));
        if (details) for (const block of details.querySelectorAll("pre")) parts.push(block.textContent);
      }
      texts.set(row, parts.join("\n").toLowerCase());
    }
    return texts.get(row);
  };
  const scoreOf = (cell) => (cell.classList.contains("scored") ? parseFloat(cell.textContent) : NaN);
  const outcomeOf = (cell) => (cell.classList.contains("scored") ? "succeeded" : cell.className);
  const numberIn = (input) => (input.value.trim() === "" ? null : input.valueAsNumber);

  // Shows the rows that contain the text and have a cell with the outcome and a score in the range.
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    const [from, to] = [numberIn(low), numberIn(high)];
    const ofCells = outcome.value !== "" || from !== null || to !== null;
    const fits = (cell) => {
      if (outcome.value !== "" && outcomeOf(cell) !== outcome.value) return false;
      if (from === null && to === null) return true;
      const score = scoreOf(cell);
      return score >= (from ?? -Infinity) && score <= (to ?? Infinity);
    };
    let count = 0;
    for (const row of original) {
      const fit =
        (wanted === "" || textOf(row).includes(wanted)) &&
        (!ofCells || Array.prototype.some.call(row.cells, (cell, place) => place > 0 && fits(cell)));
      row.hidden = !fit;
      count += fit;
    }
    shown.textContent = `${count.toLocaleString("en")} of ${original.length.toLocaleString("en")} files shown`;
  };

  // A column of scores starts with the best; cells without a score come last in both directions.
  const names = new Intl.Collator("en", { numeric: true });
  const sorted = (place, direction) => {
    if (direction === "none") return original;
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = original.map((row) => {
      const cell = row.cells[place];
      return { row, key: place ? scoreOf(cell) : cell.querySelector("bdi").textContent };
    });
    keyed.sort((a, b) => {
      if (!place) return sign * names.compare(a.key, b.key);
      if (isNaN(a.key) || isNaN(b.key)) return isNaN(a.key) - isNaN(b.key);
      return sign * (a.key - b.key);
    });
    return keyed.map(({ row }) => row);
  };
  const next = (place, direction) => {
    const ways = place ? ["none", "descending", "ascending"] : ["none", "ascending", "descending"];
    return ways[(ways.indexOf(direction) + 1) % ways.length];
  };
  const heads = [...table.querySelectorAll("thead .sorts")];
  heads.forEach((label, place) => {
    const head = label.closest("th");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.setAttribute("aria-label", `Sort by ${label.dataset.name}`);
    label.append(button);
    button.addEventListener("click", () => {
      const direction = next(place, head.getAttribute("aria-sort") ?? "none");
      for (const other of table.querySelectorAll("thead [aria-sort]")) other.removeAttribute("aria-sort");
      if (direction !== "none") head.setAttribute("aria-sort", direction);
      body.append(...sorted(place, direction));
    });
  });

  for (const input of [text, outcome, low, high]) input.addEventListener("input", filter);
  field("reset").addEventListener("click", () => {
    for (const input of [text, outcome, low, high]) input.value = "";
    filter();
    text.focus();
  });
  filter();
  document.querySelector(".filters").hidden = false;
})();
