// What the page does beside being read: figures, tables that sort, answers to choose, and paper.
"use strict";
(() => {
  // Figures, one after another so that the page answers meanwhile. Letters and grids are coloured by the style sheet.
  const look = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12 },
    hoverlabel: { bgcolor: "#1c2128", bordercolor: "#59616c", font: { color: "#ffffff", size: 13 }, align: "left", namelength: -1 },
    dragmode: false,
  };
  // What lies in a closed fold has no width; it is drawn when it is opened.
  const folded = (place) => place.closest("details.task:not([open])") !== null;
  const waiting = [...document.querySelectorAll(".plot")].filter((place) => !folded(place));
  const draw = (place) => {
    if (place.dataset.drawn === "yes") return;
    place.dataset.drawn = "yes";
    const figure = JSON.parse(place.querySelector(".figure-data").textContent);
    const axis = { showline: true, linecolor: "#8a8f97", tickcolor: "#8a8f97", ticks: "outside", zeroline: false, ticklen: 4 };
    const layout = { ...look, ...figure.layout };
    layout.xaxis = { ...axis, ...layout.xaxis };
    layout.yaxis = { ...axis, ...layout.yaxis };
    return Plotly.newPlot(place, figure.data, layout, { displayModeBar: false, responsive: true, doubleClick: false });
  };
  const next = () => {
    const place = waiting.shift();
    if (place === undefined) { document.documentElement.dataset.drawn = "yes"; return; }
    draw(place);
    setTimeout(next, 0);
  };
  if (window.Plotly) next();
  const folds = [...document.querySelectorAll("details.task")];
  const drawIn = (fold) => {
    if (!window.Plotly) return;
    fold.querySelectorAll(".plot").forEach((place) => {
      if (folded(place)) return;
      if (place.dataset.drawn === "yes") Plotly.Plots.resize(place); // the window may be another by now
      draw(place);
    });
  };
  folds.forEach((fold) => fold.addEventListener("toggle", () => { if (fold.open) drawIn(fold); }));

  // On paper no task is folded, and figures are as wide as it is, whatever the window was.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = folds.filter((fold) => !fold.open);
    opened.forEach((fold) => { fold.open = true; });
    opened.forEach(drawIn);
    while (waiting.length) draw(waiting.shift());
    document.querySelectorAll(".plot").forEach((place) => Plotly.relayout(place, { width: 640 }));
  });
  window.addEventListener("afterprint", () => {
    document.querySelectorAll(".plot").forEach((place) => Plotly.relayout(place, { width: null, autosize: true }));
    opened.forEach((fold) => { fold.open = false; });
  });

  // Tables: by number where there is one, what is empty last; a third press gives the first order back.
  document.querySelectorAll("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    const first = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const key = (row, column) => {
      const cell = row.cells[column];
      const given = cell.dataset.by;
      if (given === undefined) return cell.classList.contains("empty") ? null : cell.textContent.trim();
      return given !== "" && !Number.isNaN(Number(given)) ? Number(given) : given;
    };
    const compare = (a, b) =>
      typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (button === null) return;
      button.addEventListener("click", () => {
        // Numbers are most often wanted from the highest down.
        const order = head.classList.contains("number") ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
        const now = order[(order.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", now);
        const sign = now === "descending" ? -1 : 1;
        const rows = now === "none" ? first : [...first].sort((one, other) => {
          const a = key(one, column), b = key(other, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * compare(a, b);
        });
        body.append(...rows);
      });
    });
  });

  // Answers of the models that are chosen. Text is set as text, never as markup.
  const store = document.getElementById("answers-data");
  if (store !== null) {
    const answers = JSON.parse(store.textContent);
    document.querySelectorAll(".choosers select").forEach((select) => {
      select.addEventListener("change", () => {
        const column = Number(select.dataset.column), model = Number(select.value);
        document.querySelectorAll(`th[data-of="${column}"]`).forEach((head) => { head.textContent = answers.models[model]; });
        document.querySelectorAll("tr[data-example]").forEach((row) => {
          const cell = row.cells[column + 2], said = answers.said[Number(row.dataset.example)][model];
          const text = document.createElement("span");
          text.className = "said";
          text.textContent = said === null ? "–" : said[0];
          const verdict = document.createElement("span");
          verdict.className = "verdict";
          verdict.textContent = said === null ? "" : said[1] > 0 ? "✓" : "✗";
          cell.dataset.label = answers.models[model];
          cell.replaceChildren(verdict, text);
        });
      });
    });
  }

  // A link to a record or a section opens it, and what it stands in.
  const open = () => {
    const wanted = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    for (let at = wanted; at !== null; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    const whole = wanted === null ? null : wanted.querySelector(":scope > details.task");
    if (whole !== null) whole.open = true;
    if (wanted !== null && (wanted.tagName === "DETAILS" || whole !== null)) wanted.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();
})();
