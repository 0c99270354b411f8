// The data: an index of all items, and pieces of texts that are parsed when they are needed.

const index = JSON.parse(document.getElementById("index").textContent);
const size = index.ids.length;
const invisible = new RegExp(index.invisible, "gu");
const KEPT = 24; // parsed pieces that stay in memory

const parsed = new Map(); // piece -> items, the least recently used first

function startsInvisible(text) {
  return text.search(invisible) === 0;
}

/** Items of a piece. */
function readPiece(number) {
  let items = parsed.get(number);
  if (items) {
    parsed.delete(number);
  } else {
    items = JSON.parse(document.getElementById(`piece-${number}`).textContent);
    if (parsed.size >= KEPT) parsed.delete(parsed.keys().next().value);
  }
  parsed.set(number, items);
  return items;
}

/** The piece that an item lies in: the last that starts at or before it. */
function pieceOf(item) {
  let low = 0;
  let high = index.pieces.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (index.pieces[middle] <= item) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Texts of an item: {prompt, reference, answers: [{thought, text, finish, choice, scores} or null]}. */
function readItem(item) {
  const piece = pieceOf(item);
  return readPiece(piece)[item - index.pieces[piece]];
}

/** Whether an item's prompt may be unpleasant to read. */
function isSensitive(item) {
  return ["unsafe", "conversation"].includes(index.kinds[index.set[item]]); // its turns may ask for harm
}

/** Whether an answer may be: to such a prompt, or called unsafe by anybody. */
function isSensitiveAnswer(item, model) {
  const unsafe = index.verdicts[model].some((verdicts) => verdicts[item] === "u");
  return isSensitive(item) || unsafe || index.people[model][item] === "u";
}
