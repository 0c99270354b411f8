// The browser: filters, list and transcript, keys, and links to single items.

const byId = (id) => document.getElementById(id);
const form = byId("filters");
const detail = byId("detail");
const list = new List(byId("list"), (row, item) => fillRow(row, item, models(), form.elements.open.checked), visit);
let asked = 0; // numbers the searches, so that an older one stops
let words = null;
let naming; // the timer that names the item in the address

/** Models that are looked at. */
function models() {
  const chosen = form.elements.model.value;
  return chosen === "" ? index.models.map((_, i) => i) : [Number(chosen)];
}

/** Shows an item of the list. */
function choose(position) {
  if (!list.items.length) {
    detail.replaceChildren(element("p", "nothing", "No transcript is like that."));
    list.select(-1);
  } else {
    const item = list.items[position];
    list.select(position);
    showItem(detail, item, models(), words, form.elements.open.checked);
  }
  tellPlace();
}

/**
 * What the reader chose: the address names it, so that it can be passed on. Not at once, for browsers
 * refuse more than some changes a second, and keys are held down.
 */
function visit(position) {
  choose(position);
  clearTimeout(naming);
  naming = setTimeout(() => history.replaceState(null, "", `#item-${list.items[list.position]}`), 400);
}

function tellPlace() {
  byId("place").textContent = list.items.length ? `${(list.position + 1).toLocaleString("en")} of ${list.items.length.toLocaleString("en")}` : "";
}

function step(by) {
  const last = list.items.length - 1;
  const to = Math.min(Math.max(list.position + by, 0), last);
  if (to >= 0 && to !== list.position) visit(to);
}

/** Lists what passes the filters; the item that is shown stays, where it passes. */
function refresh(wanted = list.items[list.position]) {
  const turn = ++asked;
  words = searched(form.elements.query.value);
  const chosen = Object.fromEntries(new FormData(form));
  const items = matching(chosen);
  const settle = (found) => {
    list.show(found);
    choose(Math.max(0, found.indexOf(wanted)));
  };
  if (!words) {
    count(items.length);
    settle(items);
    return;
  }
  let shown = false;
  const tell = (found, share) => {
    if (turn !== asked) return;
    count(found.length, share);
    if (share === 1) settle(found);
    else if (!shown && found.length) {
      list.show(found);
      shown = true;
    }
  };
  search(items, words, models(), tell, () => turn !== asked);
}

function count(found, share = 1) {
  const text = found === size ? `${size.toLocaleString("en")} transcripts` : `${found.toLocaleString("en")} of ${size.toLocaleString("en")}`;
  byId("count").textContent = share < 1 ? `${text}, searched ${Math.round(100 * share)}%` : text;
}

/** Options of a <select>: words by value. */
function addOptions(select, names) {
  names.forEach((name, i) => {
    const option = element("option", "", oneLine(name));
    option.value = i;
    select.append(option);
  });
}

function addChanges(select) {
  index.changes.forEach((change, i) => {
    const group = document.createElement("optgroup");
    group.label = oneLine(change.title);
    for (const [what, letter] of [["fixed", "f"], ["broken", "b"]]) {
      if (!change[what].length) continue;
      const option = element("option", "", `${change[what].length} ${what}`);
      option.value = `${i}${letter}`;
      group.append(option);
    }
    select.append(group);
  });
  select.closest("label").hidden = !index.changes.length;
}

/** Keys work anywhere but where one types; arrows belong to the list. */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing) return;
  const inList = event.target === list.target;
  const page = Math.floor(list.target.clientHeight / ROW);
  const arrows = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  const letters = { j: 1, k: -1 };
  if (event.key in letters) step(letters[event.key]);
  else if (inList && event.key in arrows) step(arrows[event.key]);
  else if (event.key === "/") form.elements.query.focus();
  else if (event.key === "t") form.elements.open.click();
  else return;
  event.preventDefault();
}

/** A link to `#item-12` shows it, whatever the filters were. */
function follow() {
  const found = /^#item-(\d+)$/.exec(location.hash);
  if (!found || Number(found[1]) >= size) return false;
  form.reset();
  refresh(Number(found[1]));
  byId("transcripts").scrollIntoView();
  return true;
}

function start() {
  addOptions(form.elements.set, index.sets);
  addOptions(form.elements.model, index.models);
  addOptions(form.elements.judge, index.judges);
  addChanges(form.elements.change);
  for (const id of ["filters", "browser", "steps", "keys"]) byId(id).hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  form.addEventListener("change", (event) => event.target.name !== "query" && refresh());
  let typing;
  form.elements.query.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(refresh, 200);
  });
  for (const button of byId("steps").querySelectorAll("button")) {
    button.addEventListener("click", () => step(button.name === "next" ? 1 : -1));
  }
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", follow);
  if (!follow()) refresh();
}

start();
