// Which items are listed: by what is known of all of them, then by their texts.

/** Numbers of the items that pass the filters but for the search. */
function matching(chosen) {
  const models = chosen.model === "" ? index.models.map((_, i) => i) : [Number(chosen.model)];
  const judges = chosen.judge === "" ? index.judges.map((_, i) => i) : [Number(chosen.judge)];
  const changed = chosen.change === "" ? null : new Set(changedItems(chosen.change));
  const found = [];
  for (let item = 0; item < size; item++) {
    if (chosen.set !== "" && index.set[item] !== Number(chosen.set)) continue;
    if (changed && !changed.has(item)) continue;
    if (chosen.label && !models.some((model) => hasLabel(item, model, judges, chosen.label))) continue;
    if (chosen.disagreement && !disagrees(item, models, judges, chosen.disagreement)) continue;
    found.push(item);
  }
  return found;
}

/** `3f` or `3b`: what the fourth comparison calls fixed, or broken. */
function changedItems(text) {
  const change = index.changes[parseInt(text, 10)];
  return text.endsWith("f") ? change.fixed : change.broken;
}

function hasLabel(item, model, judges, label) {
  if (label[0] === "h") return index.people[model][item] === label[1];
  if (label[0] === "v") return index.preferred[model][item] === label[1];
  if ("fpn".includes(label)) return index.refusals[model][item] === label;
  if ("ecta".includes(label)) return index.endings[model][item] === label;
  return judges.some((judge) => index.verdicts[model][judge][item] === label);
}

function disagrees(item, models, judges, kind) {
  const verdict = (model, judge) => index.verdicts[model][judge][item];
  if (kind === "models") return judges.some((judge) => differ(models.map((model) => verdict(model, judge))));
  if (kind === "judges") return models.some((model) => differ(judges.map((judge) => verdict(model, judge))));
  return models.some((model) => judges.some((judge) => differ([verdict(model, judge), index.people[model][item]])));
}

/** Whether one says safe and another unsafe. */
function differ(verdicts) {
  return verdicts.includes("s") && verdicts.includes("u");
}

/** What is searched for, as a pattern: the words as they stand, in any case; null for nothing. */
function searched(query) {
  const text = query.trim();
  return text ? new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu") : null;
}

/**
 * Searches items piece by piece, and lets the page breathe in between.
 *
 * Calls `tell(found, share)` again and again with what was found until then; ends when `stopped()`.
 */
async function search(items, words, models, tell, stopped) {
  const found = [];
  let rested = performance.now();
  for (let i = 0; i < items.length; i++) {
    if (holds(items[i], words, models)) found.push(items[i]);
    if (performance.now() - rested > 12) {
      tell(found, i / items.length);
      await new Promise((resume) => setTimeout(resume));
      if (stopped()) return;
      rested = performance.now();
    }
  }
  tell(found, 1);
}

function holds(item, words, models) {
  if (words.test(index.ids[item]) || words.test(index.categories[index.category[item]])) return true;
  const texts = readItem(item);
  if (words.test(texts.prompt) || words.test(texts.reference)) return true;
  const given = models.map((model) => texts.answers[model]).filter(Boolean);
  return given.some((answer) => words.test(answer.text) || words.test(answer.thought));
}
