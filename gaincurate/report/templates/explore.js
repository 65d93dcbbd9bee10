// The table, the filters and the map of one page. Texts of data become text nodes and never markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const rows = data.rows, PAGE = 25, START = 240, LISTED = 1000;
  const bytes = text => Uint8Array.from(atob(text), sign => sign.charCodeAt(0)).buffer;
  for (const column of data.numbers) {
    column.values = new (column.bits === 32 ? Float32Array : Float64Array)(bytes(column.values));
    column.least = Infinity;
    column.most = -Infinity;
    for (const value of column.values) {
      if (value < column.least) column.least = value;
      if (value > column.most) column.most = value;
    }
    const size = column.most - column.least || Math.abs(column.most) || 1;
    column.places = column.values.every(value => Number.isNaN(value) || Number.isInteger(value)) ? 0 :
      Math.max(0, 2 - Math.floor(Math.log10(size)));
  }
  for (const group of data.groups) group.codes = new Int32Array(bytes(group.codes));
  const plane = data.map && { x: new Float32Array(bytes(data.map.x)), y: new Float32Array(bytes(data.map.y)) };
  const haystack = data.ids.map((id, row) =>
    `${id}\n${data.prompts[row]}\n${data.answers ? data.answers[row] : ""}`.toLowerCase());

  function element(tag, text, facts = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value);
    return made;
  }
  // Numbers of one column have the same places after the point, so that they can be compared at a glance.
  function number(value, column) {
    if (Number.isNaN(value)) return "–";
    const text = column.places > 7 || Math.abs(value) >= 1e9 ? value.toExponential(2) :
      value.toLocaleString("en", { minimumFractionDigits: column.places, maximumFractionDigits: column.places });
    return text.replace("-", "−");
  }
  const counted = n => n.toLocaleString("en");

  // Columns of the table, each with its value for display and what it sorts by.
  const columns = [
    { name: "id", kind: "id", text: row => data.ids[row].slice(0, 8), by: row => data.ids[row] },
    { name: "prompt", kind: "asked", text: row => data.prompts[row], by: row => data.prompts[row] },
    ...(data.answers ? [{ name: "answer", kind: "name", text: row => data.answers[row].slice(0, 60),
      by: row => data.answers[row] }] : []),
    ...data.groups.map(group => ({ name: group.name, kind: "name", text: row => group.names[group.codes[row]],
      by: row => group.names[group.codes[row]] })),
    ...data.numbers.map(column => ({ name: column.name, kind: "number", text: row => number(column.values[row], column),
      by: row => column.values[row] })),
  ];
  const state = { sort: null, down: false, page: 0, open: new Set(), picked: -1 };
  let order = Int32Array.from({ length: rows }, (_, row) => row), kept = [], inside = new Uint8Array(rows);

  function sort(column) {
    state.down = state.sort === column ? !state.down : column.kind === "number";
    state.sort = column;
    const sign = state.down ? -1 : 1, values = Array.from({ length: rows }, (_, row) => column.by(row));
    order = Int32Array.from({ length: rows }, (_, row) => row).sort((a, b) => {
      const first = values[a], second = values[b];
      if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second) || a - b;
      return first < second ? -sign : first > second ? sign : a - b;
    });
    show(false);
  }

  // Filters: a range for each column of numbers, one name for each column of groups.
  for (const group of data.groups) {
    const label = element("label", group.name), sizes = new Map();
    for (const code of group.codes) sizes.set(code, (sizes.get(code) || 0) + 1);
    group.choice = element("select");
    group.choice.append(element("option", "any", { value: "" }));
    group.names.forEach((name, code) => sizes.has(code) &&
      group.choice.append(element("option", `${name} (${counted(sizes.get(code))})`, { value: code })));
    group.choice.addEventListener("change", () => show(true));
    label.append(group.choice);
    at("filter-list").append(label);
  }
  for (const column of data.numbers) {
    const field = element("fieldset", undefined, { class: "one" }), ends = element("div");
    const input = (name, end) => {
      const made = element("input", undefined, { type: "number", step: "any", placeholder: number(end, column),
        "aria-label": `${column.name}, ${name}` });
      made.addEventListener("input", () => show(true));
      return made;
    };
    column.low = input("at least", column.least);
    column.high = input("at most", column.most);
    ends.append(column.low, element("span", "to"), column.high);
    field.append(element("legend", column.name), ends);
    at("filter-list").append(field);
  }
  const ranges = () => data.numbers.map(column => ({ column, low: column.low.value, high: column.high.value }))
    .filter(range => range.low !== "" || range.high !== "");
  const choices = () => data.groups.filter(group => group.choice.value !== "");

  function filter() {
    const words = at("find").value.toLowerCase().trim(), limits = ranges(), chosen = choices();
    inside.fill(1);
    for (const { column, low, high } of limits) {
      const least = low === "" ? -Infinity : Number(low), most = high === "" ? Infinity : Number(high);
      // No value lies in no range, as in a condition.
      for (let row = 0; row < rows; row++) if (!(column.values[row] >= least && column.values[row] <= most)) inside[row] = 0;
    }
    for (const group of chosen) {
      const code = Number(group.choice.value);
      for (let row = 0; row < rows; row++) if (group.codes[row] !== code) inside[row] = 0;
    }
    if (words) for (let row = 0; row < rows; row++) if (inside[row] && !haystack[row].includes(words)) inside[row] = 0;
    const set = limits.length + chosen.length;
    at("filtered").textContent = set ? ` (${set} set)` : "";
  }

  function show(again) {
    if (again) { filter(); state.page = 0; at("copied").hidden = true; }
    kept = Array.from(order).filter(row => inside[row]);
    table();
    draw();
  }

  function card(row) {
    const made = element("div", undefined, { class: "card" }), facts = element("dl");
    made.append(element("p", data.prompts[row], { class: "text" }));
    const add = (name, text) => facts.append(element("dt", name), element("dd", text));
    if (data.answers) add("answer", data.answers[row]);
    add("id", data.ids[row]);
    for (const column of columns.slice(2)) if (column.name !== "answer") add(column.name, column.text(row));
    made.append(facts);
    return made;
  }

  const head = at("head");
  for (const column of columns) {
    const cell = element("th", undefined, { scope: "col", class: column.kind === "number" ? "" : "word" });
    const button = element("button", column.name, { type: "button" });
    button.addEventListener("click", () => { state.page = 0; sort(column); });
    cell.append(button);
    column.head = cell;
    head.append(cell);
  }

  function table() {
    const pages = Math.max(1, Math.ceil(kept.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    for (const column of columns) column.head.setAttribute("aria-sort",
      column !== state.sort ? "none" : state.down ? "descending" : "ascending");
    const body = at("rows");
    body.replaceChildren();
    for (const row of kept.slice(state.page * PAGE, (state.page + 1) * PAGE)) body.append(...lines(row));
    at("count").textContent = `${counted(kept.length)} of ${counted(rows)} prompts`;
    at("page").textContent = `Page ${counted(state.page + 1)} of ${counted(pages)}`;
    at("before").disabled = state.page === 0;
    at("after").disabled = state.page >= pages - 1;
    at("copy-ids").disabled = at("copy-options").disabled = !kept.length;
  }

  function lines(row) {
    const line = element("tr"), made = [line];
    for (const column of columns) {
      const cell = element("td", undefined, column.kind === "number" ? {} : { class: column.kind });
      if (column.kind === "asked") {
        const text = column.text(row), short = text.length > START ? `${text.slice(0, START).trimEnd()}…` : text;
        const button = element("button", short || "(empty)", { type: "button", "aria-expanded": state.open.has(row) });
        button.addEventListener("click", () => {
          if (!state.open.delete(row)) state.open.add(row);
          button.setAttribute("aria-expanded", state.open.has(row));
          state.picked = row;
          draw();
          if (state.open.has(row)) line.after(opened(row)); else line.nextSibling.remove();
        });
        cell.append(button);
      } else cell.textContent = column.text(row);
      line.append(cell);
    }
    if (state.open.has(row)) made.push(opened(row));
    return made;
  }
  function opened(row) {
    const line = element("tr", undefined, { class: "open" }), cell = element("td", undefined, { colspan: columns.length });
    cell.append(card(row));
    line.append(cell);
    return line;
  }
  function turn(by) { state.page += by; table(); at("prompts").scrollIntoView({ block: "start" }); }
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));

  // What is copied also stands in a field, because a browser may not let a file copy.
  function copy(label, text) {
    at("copied").hidden = false;
    at("copy-label").textContent = label;
    const field = at("copy-text");
    field.value = text;
    field.focus();
    field.select();
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(
      () => { at("copy-label").textContent = `${label} Copied.`; }, () => {});
  }
  // A text as Python reads it, and an argument as a shell does.
  const literal = text => JSON.stringify(text);
  const spelled = { text: literal, number: text => text, truth: text => text === "true" ? "True" : "False" };
  const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
  at("copy-ids").addEventListener("click", () =>
    copy(`${counted(kept.length)} ids, one in a line.`, kept.map(row => data.ids[row]).join("\n")));
  at("copy-options").addEventListener("click", () => {
    const limits = ranges(), chosen = choices(), files = new Set();
    const sets = new Set(limits.map(range => range.column.rollouts).filter(path => path));
    const named = !at("find").value.trim() && limits.every(range => range.column.where) && sets.size < 2;
    let condition;
    if (named) condition = [
      ...limits.map(({ column, low, high }) => {
        if (column.rollouts) files.add(column.rollouts);
        return (low === "" ? "" : `${Number(low)} <= `) + column.where + (high === "" ? "" : ` <= ${Number(high)}`);
      }),
      ...chosen.map(group => group.choice.value === String(group.none) ? `${group.where} is None` :
        `${group.where} == ${spelled[group.kind](group.names[group.choice.value])}`),
    ].join(" and ");
    else if (kept.length <= LISTED) condition = `gc_id in [${kept.map(row => literal(data.ids[row])).join(", ")}]`;
    if (condition === undefined) copy(
      `A condition cannot say this search, and more than ${counted(LISTED)} ids are too many for one: narrow it down, or copy the ids.`, "");
    else if (condition === "") copy("Nothing is filtered: export takes all rows.", "");
    else copy("For `gaincurate export` and `schedule start`.",
      [`--where ${quoted(condition)}`, ...[...files].map(file => `--rollouts ${quoted(file)}`)].join(" "));
  });

  at("find").addEventListener("input", () => show(true));
  at("clear").addEventListener("click", () => {
    at("find").value = "";
    for (const column of data.numbers) column.low.value = column.high.value = "";
    for (const group of data.groups) group.choice.value = "";
    show(true);
  });

  // The map. Colours are the page's own, so they are read again whenever light or dark may have changed.
  const canvas = at("plane"), NAMED = 8;
  const PALETTE = ["#3b82c4", "#d9822b", "#4f9e5b", "#b65fb0", "#c9a227", "#3aa6a6", "#cf5560", "#8b7fd0"];
  let draw = () => {};
  if (plane) {
    const choice = at("colour"), painted = [
      ...data.numbers,
      ...data.groups.map(group => ({ name: group.name, group })),
    ];
    painted.forEach((column, place) => choice.append(element("option", column.name, { value: place })));
    const first = data.numbers.findIndex(column => column.role === "pass-rate");
    choice.value = first >= 0 ? first : data.groups.length ? data.numbers.length : 0;
    const span = values => {
      let least = Infinity, most = -Infinity;
      for (const value of values) { least = Math.min(least, value); most = Math.max(most, value); }
      return [least, most - least || 1];
    };
    const [left, wide] = span(plane.x), [bottom, high] = span(plane.y);
    const probe = element("span");
    document.body.append(probe);
    const colour = name => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
    };
    const place = (row, width, height) =>
      [14 + (plane.x[row] - left) / wide * (width - 28), height - 14 - (plane.y[row] - bottom) / high * (height - 28)];
    const mix = (from, to, share) => from.map((part, i) => Math.round(part + (to[i] - part) * share));

    function paints() {
      const column = painted[choice.value], legend = at("legend"), none = colour("--muted");
      legend.replaceChildren();
      const entry = (text, shade) => {
        const line = element("span"), dot = element("i");
        dot.style.background = shade;
        line.append(dot, text);
        legend.append(line);
      };
      if (column.group) {
        const sizes = new Map();
        for (const code of column.group.codes) sizes.set(code, (sizes.get(code) || 0) + 1);
        const largest = [...sizes].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, NAMED).map(pair => pair[0]);
        const shades = new Map(largest.map((code, i) => [code, PALETTE[i]]));
        for (const code of largest) entry(`${column.group.names[code]} (${counted(sizes.get(code))})`, shades.get(code));
        if (sizes.size > NAMED) entry(`${counted(sizes.size - NAMED)} others`, `rgb(${none})`);
        return row => shades.get(column.group.codes[row]) || `rgb(${none})`;
      }
      const sorted = column.values.filter(value => !Number.isNaN(value)).sort();
      // The middle of the values spans the colours, because one far value would leave all others alike.
      const low = sorted[Math.floor(sorted.length * 0.02)], top = sorted[Math.ceil(sorted.length * 0.98) - 1];
      const ends = [colour("--low"), colour("--middle"), colour("--high")], width = top - low || 1;
      legend.append(element("span", number(low, column)), element("span", undefined, { class: "ramp" }), element("span", number(top, column)));
      const steps = Array.from({ length: 65 }, (_, step) => step <= 32 ? mix(ends[0], ends[1], step / 32) :
        mix(ends[1], ends[2], (step - 32) / 32)).map(parts => `rgb(${parts})`);
      if (sorted.length < rows) entry(`no value (${counted(rows - sorted.length)})`, `rgb(${none})`);
      return row => Number.isNaN(column.values[row]) ? `rgb(${none})` :
        steps[Math.round(64 * Math.min(1, Math.max(0, (column.values[row] - low) / width)))];
    }

    draw = () => {
      const box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
      canvas.width = Math.round(box.width * scale);
      canvas.height = Math.round(box.height * scale);
      const pen = canvas.getContext("2d"), paint = paints(), size = rows > 5000 ? 1.6 : rows > 1000 ? 2.4 : 3.4;
      pen.scale(scale, scale);
      const dot = (row, radius) => {
        pen.beginPath();
        pen.arc(...place(row, box.width, box.height), radius, 0, 7);
        pen.fill();
      };
      pen.fillStyle = `rgb(${colour("--rule")})`;
      for (let row = 0; row < rows; row++) if (!inside[row]) dot(row, size * 0.8);
      for (let row = 0; row < rows; row++) if (inside[row]) { pen.fillStyle = paint(row); dot(row, size); }
      if (state.picked >= 0) {
        pen.strokeStyle = `rgb(${colour("--ink")})`;
        pen.lineWidth = 2;
        pen.beginPath();
        pen.arc(...place(state.picked, box.width, box.height), size + 3, 0, 7);
        pen.stroke();
      }
      canvas.setAttribute("aria-label", `Map of the embeddings of ${counted(rows)} prompts, coloured by ` +
        `${painted[choice.value].name}; ${counted(kept.length)} pass the filters`);
    };
    canvas.addEventListener("click", event => {
      const box = canvas.getBoundingClientRect();
      let nearest = -1, least = 14 ** 2;
      for (let row = 0; row < rows; row++) {
        if (!inside[row]) continue;
        const [x, y] = place(row, box.width, box.height);
        const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
        if (far < least) { least = far; nearest = row; }
      }
      state.picked = nearest;
      at("picked").replaceChildren(...(nearest >= 0 ? [card(nearest)] : []));
      draw();
    });
    choice.addEventListener("change", () => draw());
    window.addEventListener("resize", () => draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
    for (const radio of document.querySelectorAll("[name=colours]")) radio.addEventListener("change", () => draw());
  }
  show(true);
})();
