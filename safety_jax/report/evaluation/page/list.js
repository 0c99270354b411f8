// A list of any length: rows of one height, of which only those in sight exist.

const ROW = 56; // pixels, as in browser.css
const BEYOND = 6; // rows above and below what is in sight

class List {
  /** Rows of `items` in `target`; `fill(row, item)` writes one, `choose(position)` is told of clicks. */
  constructor(target, fill, choose) {
    Object.assign(this, { target, fill, choose, items: [], position: -1, rows: new Map() });
    this.room = element("div", "room");
    target.append(this.room);
    let waiting = false;
    target.addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        this.draw();
      });
    });
    target.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) choose(Number(row.dataset.position));
    });
    new ResizeObserver(() => this.draw()).observe(target);
  }

  /** Other items; the list stays where it is, as far as it is long enough. */
  show(items) {
    this.items = items;
    this.room.style.height = `${items.length * ROW}px`;
    this.redraw();
  }

  /** Every row again, for instance because texts may be seen now. */
  redraw() {
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
    this.draw();
  }

  select(position) {
    this.position = position;
    const top = position * ROW;
    const { scrollTop, clientHeight } = this.target;
    if (top < scrollTop) this.target.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.target.scrollTop = top + ROW - clientHeight;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.target.scrollTop / ROW) - BEYOND);
    const sight = Math.ceil(this.target.clientHeight / ROW);
    const last = Math.min(this.items.length, first + sight + 2 * BEYOND);
    for (const [position, row] of this.rows) {
      if (position < first || position >= last) {
        row.remove();
        this.rows.delete(position);
      }
    }
    for (let position = first; position < last; position++) {
      if (!this.rows.has(position)) this.rows.set(position, this.make(position));
      this.rows.get(position).setAttribute("aria-selected", position === this.position);
    }
    if (this.rows.has(this.position)) this.target.setAttribute("aria-activedescendant", `row-${this.position}`);
    else this.target.removeAttribute("aria-activedescendant");
  }

  make(position) {
    const row = element("div", "row");
    row.id = `row-${position}`;
    row.dataset.position = position;
    row.setAttribute("role", "option");
    row.setAttribute("aria-setsize", this.items.length);
    row.setAttribute("aria-posinset", position + 1);
    row.style.top = `${position * ROW}px`;
    this.fill(row, this.items[position]);
    this.target.append(row);
    return row;
  }
}
