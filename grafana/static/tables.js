// Tables: the table panels, and the table view of every chart. Text of events only ever becomes text nodes.
import { shown } from "/static/figures.js";

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Settings of a column, from the panel's overrides.
export function settings(panel, name) {
  const found = { title: name, unit: undefined, decimals: undefined };
  for (const override of panel.fieldConfig?.overrides ?? []) {
    if (override.matcher.options !== name) continue;
    for (const { id, value } of override.properties) {
      if (id === "displayName") found.title = value;
      else if (id === "unit") found.unit = value;
      else if (id === "decimals") found.decimals = value;
      else if (id === "color") { found.colour = value.fixedColor; found.heat = value.mode?.startsWith("continuous"); }
      else if (id === "links") found.link = value[0].url;
      else if (id === "mappings") found.words = value[0].options;
    }
  }
  return found;
}

// A text in the board's language: words of ours have one, names of people and things stay as they are.
export const word = (panel, text) => panel.fieldConfig?.defaults?.mappings?.[0]?.options?.[text]?.text ?? text;

const isNumeric = (type) => /^(Nullable\()?(U?Int|Float|Decimal)/.test(type);
const isTime = (type) => /^(Nullable\()?DateTime/.test(type);

export function columnsOf(panel, told) {
  return told.columns.map(([name, type], at) => {
    const own = settings(panel, name);
    const unit = own.unit ?? (isTime(type) ? "dateTimeAsIso" : isNumeric(type) && panel.type !== "table" ? panel.fieldConfig?.defaults?.unit : undefined);
    const words = own.words ?? (panel.type === "table" ? undefined : panel.fieldConfig?.defaults?.mappings?.[0]?.options);
    return { ...own, words, name, at, unit, numeric: isNumeric(type), time: isTime(type) };
  });
}

export function table(panel, told, context) {
  const columns = columnsOf(panel, told);
  if (told.rows.length === 1 && panel.type === "table" && columns.length > 6 && panel.gridPos.w <= 12) return pairs(columns, told.rows[0], context);
  const hot = columns.filter((column) => column.heat);
  const matrix = hot.length > 10;
  const limits = matrix ? spread(told.rows, hot.map((c) => c.at)) : null;
  for (const column of hot) column.limits = limits ?? spread(told.rows, [column.at]);
  const head = element("tr", {}, ...columns.map((c) => element("th", { scope: "col", class: c.numeric ? "n" : "" }, c.title)));
  const rows = told.rows.slice(0, 1000).map((row) => element("tr", {}, ...columns.map((c) => cell(c, row[c.at], context, beside(columns, row)))));
  const made = element("table", { class: matrix ? "matrix" : "" }, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": panel.title }, made);
}

function pairs(columns, row, context) {
  const rows = columns.map((c) => element("tr", {}, element("th", { scope: "row" }, c.title), cell({ ...c, numeric: false }, row[c.at], context, beside(columns, row))));
  return element("div", { class: "scroll", tabindex: "0" }, element("table", { class: "pairs" }, element("tbody", {}, ...rows)));
}

// Another column of the same row, by its name.
const beside = (columns, row) => (name) => row[columns.find((c) => c.name === name)?.at] ?? "";

function cell(column, value, context, other) {
  const text = column.words?.[value]?.text ?? shown(value, column.unit, column.decimals, context.zone);
  const level = column.limits && typeof value === "number" ? Math.round((6 * (value - column.limits[0])) / (column.limits[1] - column.limits[0] || 1)) : null;
  const made = element("td", { class: (column.numeric ? "n" : "") + (level === null ? "" : ` heat${level}`) });
  if (column.link && value !== null && value !== "") {
    const target = column.link.replace("${__value.raw:percentencode}", encodeURIComponent(value))
      .replace(/\$\{__data\.fields\.(\w+):percentencode\}/g, (_, name) => encodeURIComponent(other(name)))
      .replace("${__url_time_range}", context.range());
    made.append(element("a", { href: target }, text));
  } else made.append(text);
  if (text.length > 40) {
    made.title = text;
    made.classList.add("long");
  }
  return made;
}

function spread(rows, places) {
  const values = rows.flatMap((row) => places.map((at) => row[at])).filter((value) => typeof value === "number");
  return [Math.min(0, ...values), Math.max(...values)];
}
