// One transcript: the prompt, and what each model answered, with what judges say.

const COLOURS = 8; // of models, as in charts.css
const VERDICTS = { s: "safe", u: "unsafe", "?": "unscored" };
const REFUSALS = { f: "refuses", p: "refuses partially", n: "does not refuse" };
const PREFERRED = { w: "preferred to that of", l: "less liked than that of", t: "a tie with that of" };
const ENDINGS = { e: "empty", c: "cut off", t: "cut off inside its thought", a: "not asked: no room left" };

/** Class of a verdict's letter. */
function shade(letter) {
  return letter === "?" ? "unknown" : letter;
}

/** A row of the list. */
function fillRow(row, item, models, open) {
  const first = element("div", "first");
  first.append(element("bdi", "id", oneLine(index.ids[item])));
  if (index.safety >= 0) {
    const verdicts = element("span", "verdicts");
    for (const model of models) {
      const letter = index.verdicts[model][index.safety][item];
      const mark = element("span", `verdict ${shade(letter)}`, letter === "-" ? "·" : letter);
      mark.title = `${oneLine(index.models[model])}: ${VERDICTS[letter] ?? "no verdict"}`;
      verdicts.append(mark);
    }
    first.append(verdicts);
  }
  const hidden = isSensitive(item) && !open;
  const kind = index.categories[index.category[item]] || index.sets[index.set[item]];
  const second = element("div", "second", hidden ? oneLine(kind) : oneLine(index.previews[item]));
  second.dir = "auto";
  row.append(first, second);
}

/** A transcript into `target`. */
function showItem(target, item, models, words, open) {
  const texts = readItem(item);
  const category = index.categories[index.category[item]];
  const about = [index.sets[index.set[item]], category].filter(Boolean).map(oneLine).join(" · ");
  const prompt = element("div", "prompt");
  prompt.append(element("p", "label", "prompt"), shown(texts.prompt, words, isSensitive(item) && !open, "prompt"));
  if (texts.asked) {
    prompt.append(element("p", "label", "asked, under the attack"), folded(texts.asked, words, "what was asked", !isSensitive(item)));
  }
  if (texts.reference) {
    prompt.append(element("p", "label", "reference"), longText(texts.reference, words));
  }
  const answers = element("div", "answers");
  for (const model of models) {
    if (texts.answers[model]) answers.append(showAnswer(item, model, texts.answers[model], words, open));
  }
  const head = element("h3");
  head.append(element("bdi", "", oneLine(index.ids[item])));
  target.replaceChildren(head, element("p", "about", about), prompt, answers);
  target.scrollTop = 0;
}

function showAnswer(item, model, answer, words, open) {
  const box = element("section", "answer");
  const head = element("h4");
  head.append(modelKey(model), element("bdi", "", oneLine(index.models[model])));
  const chips = element("ul", "chips");
  answer.scores.forEach((score, judge) => {
    if (score) chips.append(scoreChip(score, index.judges[judge], index.verdicts[model][judge][item]));
  });
  const refusal = REFUSALS[index.refusals[model][item]];
  if (refusal) chips.append(element("li", "chip", refusal));
  const ending = ENDINGS[index.endings[model][item]];
  if (ending) chips.append(element("li", "chip unknown", ending));
  const preferred = PREFERRED[index.preferred[model][item]];
  if (preferred) chips.append(element("li", "chip", `${preferred} ${oneLine(index.baseline)}`));
  const people = index.people[model][item];
  if (VERDICTS[people]) chips.append(element("li", `chip ${people}`, `people: ${VERDICTS[people]}`));
  if (answer.choice) chips.append(element("li", "chip", `chooses ${oneLine(answer.choice)}`));
  box.append(head, chips);
  if (answer.thought) box.append(folded(answer.thought, words, "thought", !isSensitiveAnswer(item, model)));
  box.append(shown(answer.text, words, isSensitiveAnswer(item, model) && !open, "answer"));
  return box;
}

/** `guard: unsafe 0.08`, or why there is no score. */
function scoreChip([value, label, reason], judge, letter) {
  const said = value === null ? `unscored, ${reason}` : `${label || VERDICTS[letter] || ""} ${Number(value.toPrecision(3))}`;
  return element("li", `chip ${shade(letter)}`, oneLine(beginning(`${judge}: ${said}`, 160)));
}

function shown(text, words, fold, what) {
  return fold && text.trim() ? folded(text, words, what) : longText(text, words);
}

/** The shape and colour of a model, as in the charts. */
function modelKey(model) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  const shape = document.createElementNS(space, "use");
  const place = model % COLOURS;
  const form = (model + Math.floor(model / COLOURS)) % COLOURS; // another one for every eight
  for (const [name, value] of Object.entries({ width: 14, height: 14, class: "key", "aria-hidden": "true" })) {
    picture.setAttribute(name, value);
  }
  for (const [name, value] of Object.entries({ href: `#shape-${form}`, class: `model-${place}`, x: 7, y: 7 })) {
    shape.setAttribute(name, value);
  }
  picture.append(shape);
  return picture;
}
