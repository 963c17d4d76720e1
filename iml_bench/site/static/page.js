// The table, its filters, and what of them stands in the address. Text from records is only ever set as text.
"use strict";
window.iml = { data: {}, waiting: {}, root: document.body.dataset.root };

// Data comes as scripts that call this, since a page opened from disk may not request files.
window.imlData = (kind, key, value) => {
  (iml.data[kind] ||= new Map()).set(key, value);
};

iml.script = (file) => iml.waiting[file] ||= new Promise((done, failed) => {
  const element = document.createElement("script");
  element.src = `${iml.root}assets/${file}`;
  element.onload = done;
  element.onerror = () => failed(new Error(`cannot load ${file}`));
  document.head.append(element);
});

iml.load = async (kind, key) => {
  if (!iml.data[kind]?.has(key)) await iml.script(`${kind}-${key}.js`);
  return iml.data[kind].get(key);
};

iml.element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

(() => {
  const element = document.getElementById("board");
  if (!element) return;
  const form = document.getElementById("filters");
  const FIELDS = ["task", "modality", "family", "size", "text"];
  const first = form.elements.task.value;

  // What was not measured, and a score that means nothing, come last in either direction.
  const last = (a, b, sign) => (a === "") - (b === "") || (a === "" ? 0 : sign * (a - b));
  DataTable.type("measured", {
    order: { pre: (value) => value, asc: (a, b) => last(a, b, 1), desc: (a, b) => last(a, b, -1) },
  });
  const headings = [...element.tHead.rows[0].cells];
  const column = (text) => headings.findIndex((cell) => cell.textContent.trim() === text);
  const table = new DataTable(element, {
    autoWidth: false,
    order: [],
    pageLength: 100,
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: { paging: { firstLast: false } } },
    language: { info: "_TOTAL_ rows", infoFiltered: "of _MAX_", infoEmpty: "no rows", zeroRecords: "No model matches." },
    columnDefs: [
      { targets: "plot", orderable: false, searchable: false },
      { targets: "number", type: "measured", orderSequence: ["desc", "asc"] },
      { targets: "_all", type: "string" },
    ],
    drawCallback() {
      const paging = this.api().page.info();
      this.api().table().container().classList.toggle("one-page", paging.pages < 2);
    },
  });
  const measures = headings.flatMap((cell, index) => (cell.dataset.measure ? [index] : []));
  const rows = table.rows().nodes().toArray();
  const references = [...document.querySelectorAll(".references tbody tr")];
  iml.table = table;
  iml.rows = rows;
  iml.selected = new Set();
  iml.columns = headings.map((cell) => cell.textContent.trim());

  // Several words: all of them must be found.
  const matches = (row) => {
    const chosen = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));
    const words = chosen.text.toLowerCase().split(/\s+/).filter(Boolean);
    const text = row.dataset.text.toLowerCase();
    return ["task", "modality", "family", "size"].every((name) => !chosen[name] || row.dataset[name] === chosen[name])
      && words.every((word) => text.includes(word));
  };

  const write = () => {
    const parts = new URLSearchParams();
    for (const name of FIELDS) {
      const value = form.elements[name].value;
      if (name === "task" ? value !== first : value) parts.set(name, value || "all");
    }
    if (iml.selected.size) parts.set("compare", [...iml.selected].join(","));
    const hash = parts.size ? `#${parts}` : "";
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
  };

  const read = () => {
    const parts = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of FIELDS) {
      const wanted = parts.get(name);
      const field = form.elements[name];
      if (name === "text") { field.value = wanted || ""; continue; }
      const known = [...field.options].map((option) => option.value);
      field.value = wanted === "all" ? "" : known.includes(wanted) ? wanted : name === "task" ? first : "";
    }
    const known = new Set(rows.map((row) => row.dataset.model));
    iml.selected = new Set((parts.get("compare") || "").split(",").filter((model) => known.has(model)));
  };

  iml.show = () => {
    const task = form.elements.task.value;
    for (const row of references) row.hidden = Boolean(task) && row.dataset.task !== task;
    table.column(column("task")).visible(!task);
    // A column that is empty for all that is shown says nothing.
    const found = rows.filter(matches);
    const empty = (index) => found.every((row) => table.cell(row, index).node().dataset.value === "null");
    for (const index of measures) table.column(index).visible(!found.length || !empty(index));
    for (const row of rows) row.querySelector("[name=compare]").checked = iml.selected.has(row.dataset.model);
    element.classList.toggle("all-intervals", form.elements.intervals.checked);
    table.draw();
    write();
    document.dispatchEvent(new Event("iml-show"));
  };

  table.search.fixed("filters", (_text, _data, index) => matches(rows[index]));
  form.addEventListener("change", () => iml.show());
  form.elements.text.addEventListener("input", () => iml.show());
  form.addEventListener("submit", (event) => event.preventDefault());
  element.addEventListener("change", (event) => {
    if (event.target.name !== "compare") return;
    iml.selected[event.target.checked ? "add" : "delete"](event.target.value);
    iml.show();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash && !location.hash.includes("=")) return; // a place on this page
    read();
    iml.show();
  });
  iml.task = () => form.elements.task.value;
  form.hidden = false;
  read();
  document.addEventListener("DOMContentLoaded", () => {
    iml.show();
    document.documentElement.dataset.ready = "table";
    performance.mark("iml-table");
  });
})();
