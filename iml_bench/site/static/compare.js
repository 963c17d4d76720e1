// Side by side: cells of the table, and paired differences that were computed when the page was built.
"use strict";
(() => {
  const place = document.getElementById("comparison-tables");
  if (!place) return;
  const hint = document.getElementById("comparison-hint");
  const words = document.getElementById("comparison-words");
  const selection = document.getElementById("selection");
  const { element } = iml;
  const label = (row) => row.querySelector("th a").textContent;
  let turn = 0;

  const number = (text, value, column) => {
    const cell = element("td", { className: "number", textContent: text });
    cell.dataset.column = column;
    cell.dataset.value = JSON.stringify(value);
    return cell;
  };
  const heading = (text, scope = "col", className = "number") => element("th", { textContent: text, scope, className });
  const table = (caption, head, body) => {
    const made = element("table", { className: "plain" },
      element("caption", { textContent: caption }),
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...body));
    const region = element("div", { className: "scroll", tabIndex: 0 }, made);
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", caption);
    return region;
  };

  const scores = (name, rows) => {
    const skipped = new Set(["model", "task"]);
    const lines = [];
    for (const [index, column] of iml.columns.entries()) {
      const found = rows.map((row) => iml.table.cell(row, index).node().cloneNode(true));
      if (skipped.has(column) || found.some((cell) => cell.classList.contains("plot"))) continue;
      if (found.every((cell) => cell.dataset.value === "null")) continue;
      lines.push(element("tr", {}, heading(column, "row", ""), ...found));
    }
    const made = table(`${name}: scores`, [heading("score", "col", ""), ...rows.map((row) => heading(label(row)))], lines);
    made.firstChild.classList.add("scores");
    return made;
  };

  const differences = (name, measure, rows, pairs) => {
    const at = new Map(pairs.map((pair) => [`${pair[0]} ${pair[1]}`, pair]));
    const lines = [];
    for (const [i, first] of rows.entries()) {
      for (const second of rows.slice(i + 1)) {
        const found = at.get(`${first.dataset.model} ${second.dataset.model}`);
        const [, , n, difference, low, high, p, apart, text, pText, apartText] = found || [];
        const line = element("tr", {}, heading(`${label(first)} − ${label(second)}`, "row", ""));
        line.dataset.first = first.dataset.model;
        line.dataset.second = second.dataset.model;
        if (found) {
          const cell = number(text, difference, "difference");
          Object.assign(cell.dataset, { low: JSON.stringify(low), high: JSON.stringify(high) });
          line.append(number(String(n), n, "n_seeds"), cell, number(pText, p, "p"), number(apartText, apart, "separated"));
        } else {
          line.append(element("td", { colSpan: 4, textContent: "no seed in common" }));
        }
        lines.push(line);
      }
    }
    const head = [heading("pair", "col", ""), ...["seeds", `difference in ${measure} [95 %]`, "p", "on the board"].map((text) => heading(text))];
    return table(`${name}: paired differences`, head, lines);
  };

  const button = (text, action) => {
    const made = element("button", { type: "button", textContent: text });
    made.addEventListener("click", action);
    return made;
  };
  // What is selected, in sight of the table; its buttons are made once, so that the focus stays on them.
  const said = element("span");
  const go = button("Show comparison", () => {
    place.tabIndex = -1;
    place.focus({ preventScroll: true });
    document.getElementById("comparison").scrollIntoView();
  });
  const clear = button("Clear", () => { iml.selected.clear(); iml.show(); });
  selection.append(said, go, clear);
  const bar = (n, comparable) => {
    selection.hidden = !n;
    go.hidden = !comparable;
    said.textContent = `${n} selected: ${[...new Set(iml.rows.filter((row) => iml.selected.has(row.dataset.model)).map(label))].join(", ")}`;
  };

  const show = async () => {
    const mine = ++turn;
    const byTask = new Map();
    for (const row of iml.rows) {
      if (iml.selected.has(row.dataset.model) && (!iml.task() || row.dataset.task === iml.task())) {
        byTask.set(row.dataset.task, [...(byTask.get(row.dataset.task) || []), row]);
      }
    }
    const made = [];
    for (const [task, rows] of byTask) {
      if (rows.length < 2) continue;
      const { label: name, measure, models, pairs } = await iml.load("pairs", task);
      const named = pairs.map(([i, j, ...rest]) => [models[i], models[j], ...rest]);
      made.push(scores(name, rows), differences(name, measure, rows, named));
    }
    if (mine !== turn) return; // something else was selected meanwhile
    place.replaceChildren(...made);
    words.hidden = !made.length;
    const n = iml.selected.size;
    if (made.length) hint.textContent = `${n} models, side by side; the address of this page holds the selection.`;
    else if (n > 1) hint.textContent = "The selected models have no task in common that is shown.";
    else hint.textContent = n ? "Select one more model in the table." : "Select two or more models in the table to set them side by side.";
    bar(n, made.length > 0);
  };
  document.addEventListener("iml-show", show);
})();
