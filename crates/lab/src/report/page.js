"use strict";
// Nothing here is needed for reading: values under the pointer, runs to hide, tables to sort.
const tip = document.createElement("div");
tip.id = "tip";
document.body.append(tip);
const short = (v) => v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(3) : String(+v.toPrecision(4));
const clock = (s) => s < 60 ? short(s) + " s" : s < 3600 ? short(s / 60) + " min" : short(s / 3600) + " h";
const pointsOf = (path) => {
  if (path.points) return path.points;
  let x = 0, y = 0;
  path.points = [];
  for (const [, kind, numbers] of path.getAttribute("d").matchAll(/([Ml])([^Mlz]*)/g)) {
    const [a, b] = numbers.match(/-?\d*\.?\d+/g).map(Number);
    [x, y] = kind === "M" ? [a, b] : [x + a, y + b];
    path.points.push([x, y]);
  }
  return path.points;
};
for (const svg of document.querySelectorAll("svg[data-scales]")) {
  const [left, right, top, height, x0, x1, y0, y1, log] = svg.dataset.scales.split(" ").map(Number);
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const share = (at.x - left) / (right - left);
    const lines = [];
    for (const path of svg.querySelectorAll("path[data-tell], path.line")) {
      const owner = path.closest("[data-run]");
      if (!owner || getComputedStyle(owner).display === "none") continue;
      let best = null;
      for (const point of pointsOf(path)) if (!best || Math.abs(point[0] - at.x) < Math.abs(best[0] - at.x)) best = point;
      if (!best || Math.abs(best[0] - at.x) > 12) continue;
      const up = 1 - (best[1] - top) / height;
      lines.push(owner.dataset.run + "  " + short(log ? y0 * Math.pow(y1 / y0, up) : y0 + up * (y1 - y0)));
    }
    const inside = share >= 0 && share <= 1 && lines.length;
    tip.style.display = inside ? "block" : "none";
    if (!inside) return;
    const x = x0 + share * (x1 - x0);
    tip.textContent = (svg.dataset.x === "s" ? clock(x) : Math.round(x).toLocaleString("en") + " tokens") + "\n" + lines.join("\n");
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 8)) + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.style.display = "none"; });
}
for (const legend of document.querySelectorAll(".legend")) {
  legend.classList.add("can");
  legend.title = "click to hide or show a run";
  for (const entry of legend.querySelectorAll("span")) entry.addEventListener("click", () => {
    const off = entry.classList.toggle("off");
    for (const part of document.querySelectorAll("svg ." + entry.dataset.of)) part.style.display = off ? "none" : "";
  });
}
for (const table of document.querySelectorAll("table.sort")) {
  table.classList.add("can");
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.dataset.order === "up";
    heads.forEach((other) => delete other.dataset.order);
    head.dataset.order = down ? "down" : "up";
    const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const order = x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? x - y : String(x).localeCompare(String(y));
      return down ? -order : order;
    };
    const rows = [...table.tBodies[0].rows].sort(compare);
    table.tBodies[0].append(...rows);
  }));
}
