document.querySelectorAll("table").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const value = row.cells[column].dataset.value;
        const word = row.cells[column].textContent;
        return value === undefined ? word : Number(value.replace("inf", "Infinity"));
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        const order = typeof x === "number" ? (x > y) - (x < y) : x.localeCompare(y);
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
});

// What the page knows of its records: `brushjax.evaluation.report.samples.Samples`.
const data = document.getElementById("data");
if (data) browse(JSON.parse(data.textContent));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter(child => child !== null));
  return made;
}

function browse(known) {
  const PAGE = 20;
  const names = Object.keys(known.benchmarks);
  const form = document.querySelector("form.controls");
  const list = document.getElementById("rows");
  const counted = document.getElementById("counted");
  const unique = values => [...new Set(values)];
  const state = { page: 0, current: -1, rows: [] };

  // --- filters
  const select = (name, label, values) => {
    const box = element("select", { name }, element("option", { value: "" }, "all"),
      ...values.map(value => element("option", { value }, value || "(none)")));
    box.addEventListener("change", () => filter());
    form.append(element("label", {}, label, box));
    return box;
  };
  const benchmark = select("benchmark", "benchmark", names);
  const task = select("task", "task", unique(known.rows.map(row => row.group)));
  const set = select("set", "chosen as", unique(known.rows.map(row => row.set)));
  const order = select("order", "order", unique(names.flatMap(name =>
    known.benchmarks[name].methods.flatMap(method =>
      known.benchmarks[name].metrics.map(metric => `${method}: ${metric}`)))));
  order.options[0].textContent = "as chosen";
  const search = element("input", { type: "search", placeholder: "search", name: "search" });
  search.setAttribute("aria-label", "search in ids and texts");
  search.addEventListener("input", () => filter());
  form.append(search);
  const methods = unique(names.flatMap(name => known.benchmarks[name].methods));
  const ticks = methods.map(method => {
    const box = element("input", { type: "checkbox", checked: true, value: method });
    box.addEventListener("change", () => filter());
    return box;
  });
  form.append(element("fieldset", {}, "methods", ...ticks.map(
    box => element("label", {}, box, box.value))));
  for (const [kind, label, checked] of [
    ["hole", "masks on the source", true], ["mask", "masks on results", false],
    ["region", "regions", true],
  ]) {
    const box = element("input", { type: "checkbox", checked, id: `over-${kind}` });
    const apply = () => document.body.classList.toggle(`no-${kind}`, !box.checked);
    box.addEventListener("change", apply);
    apply();
    form.append(element("label", {}, box, label));
  }
  const turn = by => { state.page += by; draw(); form.scrollIntoView(); };
  const back = element("button", { type: "button" }, "previous");
  const on = element("button", { type: "button" }, "next");
  back.addEventListener("click", () => turn(-1));
  on.addEventListener("click", () => turn(1));
  form.append(back, on);
  form.addEventListener("submit", event => event.preventDefault());

  const place = row => `${row.benchmark}/${row.id}${row.turn > 1 ? "/turn " + row.turn : ""}`;
  const asked = () => methods.filter((_, index) => ticks[index].checked);
  const value = (row, method, metric) => {
    const result = row.results.find(one => one.method === method);
    const found = result && result.values[known.benchmarks[row.benchmark].metrics.indexOf(metric)];
    return found === undefined || found === null ? NaN : found;
  };
  const words = row => `${place(row)} ${row.prompt} ${row.instruction}`.toLowerCase();

  function filter() {
    const wanted = search.value.toLowerCase();
    state.rows = known.rows.filter(row =>
      (!benchmark.value || row.benchmark === benchmark.value) &&
      (!task.selectedIndex || row.group === task.value) &&
      (!set.value || row.set === set.value) &&
      (!wanted || words(row).includes(wanted)));
    if (order.value) {
      const [method, metric] = order.value.split(/: (?=[^:]*$)/);
      const sign = metric.endsWith("\u2191") ? -1 : 1;  // the better end first
      const last = x => Number.isNaN(x) ? Infinity : sign * x;
      state.rows = [...state.rows].sort((a, b) =>
        last(value(a, method, metric)) - last(value(b, method, metric)) || 0);
    }
    state.page = 0;
    state.current = -1;
    draw();
  }

  // --- rows
  function pictures(row) {
    const mask = ["mask", row.mask];
    const found = [{ name: "source", picture: row.source, over: [["hole", row.mask]] }];
    for (const method of asked()) {
      const one = row.results.find(result => result.method === method);
      if (one) found.push({ ...one, name: method, over: [mask, ["region", one.region]] });
    }
    if (row.truth) found.push({ name: "truth", picture: row.truth, over: [mask] });
    return found;
  }

  function framed(one) {
    if (!one.picture) return element("span", { className: "picture" }, one.fault || "none");
    const image = element("img", { loading: "lazy", alt: one.name, src: one.picture });
    image.decoding = "async";
    const overs = one.over.filter(([, file]) => file).map(([kind, file]) =>
      element("img", { loading: "lazy", alt: `${kind}`, src: file, className: `over ${kind}` }));
    return element("span", { className: "picture" }, image, ...overs);
  }

  // Of a result: the metric that the order is by, or the first that is defined.
  function number(row, one) {
    const metrics = known.benchmarks[row.benchmark].metrics;
    const asked = metrics.findIndex(metric => order.value.endsWith(`: ${metric}`));
    const defined = x => x !== null && x !== undefined;
    const index = defined(one.values[asked]) ? asked : one.values.findIndex(defined);
    return index < 0 ? "" : `${metrics[index]} ${one.values[index]}`;
  }

  function drawn(row, index) {
    const figures = pictures(row).map((one, which) => {
      const button = element("button", { type: "button" }, framed(one));
      button.setAttribute("aria-label", `enlarge ${one.name}`);
      button.addEventListener("click", () => open(index, which));
      const said = one.values && number(row, one);
      const small = said ? element("small", {}, said) : null;
      return element("figure", {}, button, element("figcaption", {}, one.name, small));
    });
    const link = element("a", { href: `#${encodeURIComponent(place(row))}` }, place(row));
    const text = row.instruction || row.prompt;
    const facts = element("small", {}, ` ${[row.group, row.set].filter(Boolean).join(", ")}`);
    const made = element("div", { className: "row" },
      element("p", {}, link, ` ${text}`, facts),
      element("div", { className: "pictures" }, ...figures));
    made.classList.toggle("current", index === state.current);
    return made;
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(state.rows.length / PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const start = state.page * PAGE;
    const shown = state.rows.slice(start, start + PAGE);
    list.replaceChildren(...shown.map((row, offset) => drawn(row, start + offset)));
    back.disabled = state.page === 0;
    on.disabled = state.page === pages - 1;
    counted.textContent = `${state.rows.length} of ${known.rows.length} records, page ` +
      `${state.page + 1} of ${pages}`;
  }

  function go(index) {
    if (!state.rows.length) return;
    state.current = Math.min(Math.max(index, 0), state.rows.length - 1);
    state.page = Math.floor(state.current / PAGE);
    draw();
    const row = list.children[state.current - state.page * PAGE];
    row.scrollIntoView({ block: "nearest" });
  }

  // --- one picture, enlarged
  const title = element("h3");
  const stage = element("div", { className: "stage" });
  const facts = element("div", { className: "facts" });
  const dialog = element("dialog", {}, title, stage, facts);
  dialog.setAttribute("aria-label", "enlarged picture");
  document.body.append(dialog);
  const view = { index: 0, which: 0, zoom: 1, x: 0, y: 0 };

  function open(index, which) {
    const row = state.rows[index];
    if (!row) return;
    const all = pictures(row);
    view.index = index;
    view.which = (which + all.length) % all.length;
    const one = all[view.which];
    title.textContent = `${one.name} \u00b7 ${place(row)} \u00b7 ${row.instruction || row.prompt}`;
    stage.replaceChildren(framed(one));
    facts.replaceChildren(...described(row, one));
    if (!dialog.open) dialog.showModal();
    const image = stage.querySelector("img");
    if (image && !image.complete) image.addEventListener("load", fit);
    fit();
    go(index);
  }

  function described(row, one) {
    const parts = [];
    const text = [["task", row.group], ["instruction", row.instruction], ["caption", row.prompt],
      ["seed", one.seed], ["key", one.key]].filter(([, said]) => said !== undefined && said !== "");
    parts.push(element("p", {}, text.map(([name, said]) => `${name}: ${said}`).join(" \u00b7 ")));
    const number = known.settings.indexOf(one.name);
    if (number >= 0) {
      const link = element("a", { href: `#settings-${number}` }, `settings of ${one.name}`);
      link.addEventListener("click", () => dialog.close());
      parts.push(element("p", {}, link));
    }
    if (one.values) {
      const metrics = known.benchmarks[row.benchmark].metrics;
      const there = metrics.map((metric, k) => [metric, one.values[k]]).filter(pair => pair[1] !== null);
      parts.push(element("table", {}, ...there.map(([metric, number_]) =>
        element("tr", {}, element("td", {}, metric), element("td", {}, String(number_))))));
    }
    return parts;
  }

  function fit() {
    const image = stage.querySelector("img");
    const frame = stage.querySelector(".picture");
    if (!image || !image.naturalWidth) return;
    frame.style.width = `${image.naturalWidth}px`;
    view.zoom = Math.min(stage.clientWidth / image.naturalWidth,
      stage.clientHeight / image.naturalHeight);
    view.x = view.y = 0;
    move();
  }

  function move() {
    const frame = stage.querySelector(".picture");
    const image = stage.querySelector("img");
    if (!image) return;
    const left = view.x - view.zoom * image.naturalWidth / 2;
    const top = view.y - view.zoom * image.naturalHeight / 2;
    frame.classList.toggle("large", view.zoom > 1);
    frame.style.transform = `translate(${left}px, ${top}px) scale(${view.zoom})`;
  }

  const zoom = factor => {
    view.zoom *= factor; view.x *= factor; view.y *= factor;
    move();
  };
  stage.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  stage.addEventListener("pointerdown", event => {
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", event => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    view.x += event.movementX; view.y += event.movementY;
    move();
  });
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });

  // --- keys
  const toggle = kind => document.getElementById(`over-${kind}`).click();
  const inside = {
    ArrowRight: () => open(view.index, view.which + 1),
    ArrowLeft: () => open(view.index, view.which - 1),
    ArrowDown: () => open(Math.min(view.index + 1, state.rows.length - 1), view.which),
    ArrowUp: () => open(Math.max(view.index - 1, 0), view.which),
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
    h: () => toggle("hole"), m: () => toggle("mask"), r: () => toggle("region"),
  };
  const outside = {
    j: () => go(state.current + 1), k: () => go(state.current - 1),
    n: () => turn(1), p: () => turn(-1),
    h: () => toggle("hole"), m: () => toggle("mask"), r: () => toggle("region"),
    "/": () => search.focus(),
    Enter: () => { if (state.current >= 0) open(state.current, 0); },
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) &&
      event.target.type !== "checkbox";
    const busy = event.key === "Enter" && /^(BUTTON|A|TH|SUMMARY)$/.test(event.target.tagName);
    const act = (dialog.open ? inside : outside)[event.key];
    if (!act || typing || busy) return;
    event.preventDefault();
    act();
  });

  // --- addresses of records and of settings
  function follow() {
    const wanted = decodeURIComponent(location.hash.slice(1));
    if (wanted.startsWith("settings-")) {
      const there = document.getElementById(wanted);
      if (there) { there.open = true; there.scrollIntoView(); }
      return;
    }
    const index = state.rows.findIndex(row => place(row) === wanted);
    if (index >= 0) go(index);
  }
  window.addEventListener("hashchange", follow);
  filter();
  follow();
}
