// The scheme is set before anything is painted: what was chosen here before, else what the system prefers.
"use strict";
(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem("iml-scheme"); } catch { return null; }
  };
  const apply = (scheme) => {
    root.dataset.scheme = scheme;
    root.classList.toggle("dark", scheme === "dark"); // what DataTables looks at
    document.dispatchEvent(new Event("iml-scheme"));
    const button = document.getElementById("scheme");
    if (button) {
      button.textContent = scheme === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${scheme === "dark" ? "light" : "dark"} scheme`);
    }
  };
  const preferred = () => stored() || (system.matches ? "dark" : "light");
  apply(preferred());
  system.addEventListener("change", () => apply(preferred()));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("scheme");
    button.hidden = false;
    apply(root.dataset.scheme);
    button.addEventListener("click", () => {
      const next = root.dataset.scheme === "dark" ? "light" : "dark";
      try { localStorage.setItem("iml-scheme", next); } catch { /* a folder opened from disk may have no storage */ }
      apply(next);
    });
  });
})();
