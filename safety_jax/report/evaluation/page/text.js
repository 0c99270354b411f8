// Hostile text on the page: always by textContent, never as markup.

const CUT = 4000; // characters of a long text that are shown at first
const BLOCK = 4000; // characters of a text that are laid out together

/** A new element with a class and a text. */
function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A text in an element of its own direction, invisible characters as marks. */
function showText(target, text, words) {
  const blocks = divided(text.replace(/\r\n/g, "\n")).map((block) => {
    const shown = element("div", "block");
    shown.dir = "auto";
    shown.append(...parts(block, words));
    return shown;
  });
  target.replaceChildren(...blocks);
}

/**
 * A text in blocks of some thousand characters: browsers need minutes to lay out a megabyte in one.
 * They end with a line, or else with a word, where there is one in the block's second half.
 */
function divided(text) {
  const blocks = [];
  let start = 0;
  while (text.length - start > BLOCK) {
    const block = beginning(text.slice(start, start + BLOCK + 1), BLOCK);
    const ends = [block.lastIndexOf("\n"), block.lastIndexOf(" ")];
    const end = ends.find((place) => place > BLOCK / 2) ?? block.length - 1;
    const line = block[end] === "\n"; // a block begins a line anyway
    blocks.push(block.slice(0, line ? end : end + 1));
    start += end + 1;
  }
  return [...blocks, text.slice(start)];
}

/** Pieces of plain text, marks for what is invisible, and <mark> around the words searched for. */
function parts(text, words) {
  const pattern = words ? new RegExp(`${words.source}|${invisible.source}`, "giu") : invisible;
  const found = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (!match[0]) continue;
    found.push(document.createTextNode(text.slice(end, match.index)));
    found.push(startsInvisible(match[0]) ? element("span", "invisible", codePoint(match[0])) : element("mark", "", match[0]));
    end = match.index + match[0].length;
  }
  found.push(document.createTextNode(text.slice(end)));
  return found;
}

/** `U+200B ×40`: a character and how often it stands there in a row; or how many accents are stacked. */
function codePoint(run) {
  if (/^\p{M}{6}/u.test(run)) return `${run.length} combining marks`;
  const point = run.codePointAt(0);
  const times = run.length / String.fromCodePoint(point).length;
  const name = `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
  return times > 1 ? `${name} ×${times}` : name;
}

/** One line of a text for lists, without anything invisible. */
function oneLine(text) {
  return text.replace(invisible, (run) => `⟨${codePoint(run)}⟩`);
}

/** The beginning of a text, not cut inside a character. */
function beginning(text, length) {
  const cut = text.slice(0, length);
  return /[\ud800-\udbff]$/.test(cut) && text.length > length ? cut.slice(0, -1) : cut;
}

/** A long text: its beginning, and a button for all of it. */
function longText(text, words) {
  const box = element("div");
  const shown = element("div", "text");
  shown.tabIndex = 0;
  box.append(shown);
  if (!text.trim()) {
    shown.className = "nothing";
    shown.textContent = text ? `nothing but blanks (${text.length.toLocaleString("en")})` : "empty";
    return box;
  }
  if (text.length <= CUT * 1.25) {
    showText(shown, text, words);
    return box;
  }
  showText(shown, `${beginning(text, CUT)} …`, words);
  const button = element("button", "more", `show all ${text.length.toLocaleString("en")} characters`);
  button.type = "button";
  button.addEventListener("click", () => {
    button.remove();
    showText(shown, text, words);
  });
  box.append(button);
  return box;
}

/** A button that a text lies behind: a thought, or what may be unpleasant to read. */
function folded(text, words, what, harmless = false) {
  const size = `${text.length.toLocaleString("en")} characters`;
  const button = element("button", "fold", `show ${what}: ${size}${harmless ? "" : ", may be harmful"}`);
  button.type = "button";
  button.addEventListener("click", () => {
    const open = longText(text, words);
    button.replaceWith(open);
    open.firstChild.focus();
  });
  return button;
}
