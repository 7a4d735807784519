// The history: turns as a tree, a branch a row.

const ACROSS = 74, DOWN = 62;

// Places of turns: depth as the column; the first child goes on in its parent's row.
export function layout(turns) {
  const children = new Map(), places = new Map();
  for (const turn of turns) if (turn.parent !== null) children.set(turn.parent, [...(children.get(turn.parent) || []), turn.number]);
  let rows = 0;
  const put = (number, column, row) => {
    places.set(number, { column, row });
    (children.get(number) || []).forEach((child, i) => put(child, column + 1, i ? ++rows : row));
  };
  if (turns.length) put(0, 0, 0);
  return places;
}

export function path(turns, at) {
  const found = [];
  for (let turn = turns[at]; turn; turn = turns[turn.parent]) found.push(turn.number);
  return found;
}

export function draw(holder, state, thumb, go) {
  const places = layout(state.turns), line = new Set(path(state.turns, state.at));
  const columns = Math.max(0, ...[...places.values()].map((p) => p.column)), rows = Math.max(0, ...[...places.values()].map((p) => p.row));
  const width = columns * ACROSS + 64, height = rows * DOWN + 54;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", width); svg.setAttribute("height", height);
  holder.style.width = `${width}px`; holder.style.height = `${height}px`;
  holder.replaceChildren(svg);
  for (const turn of state.turns) {
    const place = places.get(turn.number), [x, y] = [place.column * ACROSS + 2, place.row * DOWN + 2];
    if (turn.parent !== null) {
      const from = places.get(turn.parent), [px, py] = [from.column * ACROSS + 62, from.row * DOWN + 26];
      const curve = document.createElementNS(svg.namespaceURI, "path");
      curve.setAttribute("d", `M${px} ${py}C${px + 8} ${py} ${px + 2} ${y + 24} ${x} ${y + 24}`);
      svg.append(curve);
    }
    const button = document.createElement("button"), image = document.createElement("img");
    button.style.left = `${x}px`; button.style.top = `${y}px`;
    button.className = turn.number === state.at ? "at" : line.has(turn.number) ? "path" : "";
    button.title = turn.parent === null ? "the picture" : `${turn.instruction || "edit"} · seed ${turn.seed}`;
    button.dataset.turn = turn.number;
    button.onclick = () => go(turn.number);
    image.alt = button.title;
    thumb(turn.number).then((url) => { image.src = url; }, () => {});
    button.append(image);
    holder.append(button);
    if (turn.number === state.at) requestAnimationFrame(() => holder.parentElement.scrollTo({ left: x - 90, top: y - 60 }));
  }
}
