// The page of a board: the dashboard JSON laid out, choices kept in the address, figures from one stream of events.
import { draw } from "/static/charts.js";
import { local } from "/static/figures.js";
import { element } from "/static/tables.js";

const ALL = "$__all";
const WORDS = {
  en: { nothing: "No data in this range", cut: "Only the first {0} rows are shown: choose a shorter range or fewer values.", prometheus: "Grafana shows here, from Prometheus: ", absent: "Not in this store yet: ", all: "All", none: "none", of: "chosen",
    range: "Range", refresh: "Refresh", zone: "Times in", theme: "Theme", language: "Language", table: "Table", about: "What is this?", live: "live", lost: "connection lost, trying again",
    wait: "waiting for the store", past: "The newest figures are of {0}: the range ends there. ", paused: "paused", light: "light", dark: "dark", here: "here", from: "from", skip: "Skip to the board", boards: "Boards" },
  zh: { nothing: "此时间段内没有数据", cut: "仅显示前 {0} 行:请缩短时间范围或减少取值。", prometheus: "以下内容由 Grafana 从 Prometheus 展示:", absent: "存储中尚无:", all: "全部", none: "无", of: "项已选",
    range: "时间范围", refresh: "刷新", zone: "时区", theme: "主题", language: "语言", table: "表格", about: "说明", live: "实时", lost: "连接中断,正在重试",
    wait: "等待存储", past: "最新数据截至 {0},时间范围以此为终点。", paused: "已暂停", light: "浅色", dark: "深色", here: "本地", from: "自", skip: "跳到看板", boards: "看板" },
};
const uid = location.pathname.split("/").pop();
const address = new URLSearchParams(location.search);
const kept = (name, standard) => address.get(name) ?? localStorage.getItem("livepulse." + name) ?? standard;
const page = { board: null, state: null, panels: new Map(), stream: null, notes: [], from: 0, to: 0, words: WORDS.en };
const byId = (id) => document.getElementById(id);

function context(panel) {
  return { zone: kept("zone", "") || undefined, words: page.words, from: page.from, to: page.to, notes: page.notes, asTable: panel.asTable,
    range: () => ["range", "from", "to", "lang"].filter((name) => address.has(name)).map((name) => `${name}=${encodeURIComponent(address.get(name))}`).join("&") };
}

function setTheme() {
  const system = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  document.documentElement.dataset.theme = kept("theme", system);
}

function change(name, values, everywhere = false) {
  address.delete(name);
  for (const value of [values].flat()) if (value !== "") address.append(name, value);
  if (everywhere) localStorage.setItem("livepulse." + name, [values].flat()[0] ?? "");
  history.replaceState(null, "", address.size ? "?" + address : location.pathname);
}

async function start() {
  setTheme();
  const language = kept("lang", "");
  const query = language ? "?lang=" + language : "";
  const [listed, board] = await Promise.all([fetch("/api/boards" + query), fetch(`/api/boards/${uid}${query}`)].map(async (asked) => (await asked).json()));
  page.board = board;
  page.language = listed.language;
  page.words = WORDS[listed.language];
  document.documentElement.lang = listed.language;
  document.title = board.title;
  byId("skip").textContent = page.words.skip;
  byId("boards").setAttribute("aria-label", page.words.boards);
  byId("title").textContent = board.title.replace(/^LivePulse · /, "");
  byId("title").title = board.description;
  byId("boards").replaceChildren(...listed.boards.map((one) => element("a", { href: `/d/${one.uid}${query}`, "aria-current": one.uid === uid ? "page" : null }, one.title)));
  lay(board);
  resume();
}

function lay(board) {
  let grid, section;
  const rows = [];
  for (const panel of board.panels) {
    if (panel.type === "row") {
      grid = element("div", { class: "grid" });
      section = element("section", { class: "row", "aria-label": panel.title }, element("h2", {}, panel.title), grid);
      rows.push(section);
    } else if (panel.targets?.some((target) => !target.rawSql)) { // the store has nothing to tell of it: named only
      if (!section.elsewhere) section.append((section.elsewhere = element("p", { class: "elsewhere" }, page.words.prometheus)));
      section.elsewhere.append(section.elsewhere.children.length ? " · " : "", element("span", { title: panel.description }, panel.title));
    } else grid.append(card(panel));
  }
  byId("board").replaceChildren(...rows);
}

function card(panel) {
  const body = element("div", { class: "body" });
  const about = element("p", { class: "about", hidden: true }, panel.description ?? "");
  const cut = element("p", { class: "about", role: "status", hidden: true });
  const shown = { panel, body, cut, told: null, asTable: false };
  const toggle = (button, on) => button.setAttribute("aria-pressed", String(on));
  const buttons = [element("button", { type: "button", "aria-label": `${page.words.about} ${panel.title}`, "aria-pressed": "false", title: panel.description,
    onclick: (event) => { about.hidden = !about.hidden; toggle(event.currentTarget, !about.hidden); } }, "?")];
  if (!["stat", "table", "text"].includes(panel.type))
    buttons.unshift(element("button", { type: "button", "aria-pressed": "false", "aria-label": `${page.words.table}: ${panel.title}`,
      onclick: (event) => { shown.asTable = !shown.asTable; toggle(event.currentTarget, shown.asTable); redraw(shown); } }, page.words.table));
  const head = element("div", { class: "head" }, element("h3", { title: panel.title }, panel.title), ...buttons);
  const made = element("article", { class: `panel ${panel.type}`, "data-panel": panel.id }, head, about, cut, body);
  made.style.gridColumn = `span ${panel.gridPos.w}`;
  made.style.height = `${panel.gridPos.h * 30}px`;
  page.panels.set(panel.id, shown);
  if (panel.type === "text") shown.told = { columns: [], rows: [] };
  return made;
}

function redraw(shown) {
  if (!shown.told) return;
  shown.cut.hidden = !shown.told.cut;
  if (shown.told.cut) shown.cut.textContent = page.words.cut.replace("{0}", shown.told.rows.length.toLocaleString("en-US"));
  try { draw(shown.panel, shown.told, shown.body, context(shown)); }
  catch (error) { console.error(shown.panel.title, error); }
}

function connect() {
  page.stream?.close();
  const query = new URLSearchParams(address);
  if (page.language) query.set("lang", page.language);
  const every = kept("every", "5000");
  query.set("every", every === "0" ? "86400000" : every);
  const stream = new EventSource(`/api/stream/${uid}?${query}`);
  page.stream = stream;
  const told = (name, act) => stream.addEventListener(name, (event) => act(JSON.parse(event.data)));
  told("state", setState);
  told("panel", (one) => { const shown = page.panels.get(one.id); if (shown) { shown.told = one; redraw(shown); } });
  told("notes", (notes) => { page.notes = notes; page.panels.forEach((one) => one.panel.type === "timeseries" && redraw(one)); });
  told("round", () => { document.body.dataset.rounds = Number(document.body.dataset.rounds ?? 0) + 1; setStatus(); });
  told("trouble", (one) => status("lost", `${page.words.wait}: ${one.text}`));
  stream.onerror = () => status("lost", page.words.lost);
}

// A browser has six connections to a host for all of its tabs and for the pages that "back" would show: who is not looked at lets go.
function release() {
  page.stream?.close();
  page.stream = null;
}

function resume() {
  if (page.board && !page.stream && !document.hidden) connect();
}

function setState(state) {
  const changed = JSON.stringify([state.options, state.chosen]) !== JSON.stringify([page.state?.options, page.state?.chosen]);
  page.state = state;
  page.from = state.from;
  page.to = state.to;
  if (changed && !byId("controls").querySelector("details[open], select:focus")) setControls();
  const notice = byId("notice");
  notice.hidden = !state.past;
  notice.textContent = page.words.past.replace("{0}", local(state.to, kept("zone", "") || undefined));
  page.panels.forEach((one) => ["timeseries", "state-timeline"].includes(one.panel.type) && one.told?.rows && redraw(one));
}

function setStatus() {
  const live = page.state && !page.state.past && !address.has("from");
  status(live ? "live" : "past", (live ? page.words.live + " · " : "") + local(page.to, kept("zone", "") || undefined));
}

function status(kind, text) {
  byId("dot").className = "dot " + kind;
  byId("status").textContent = text;
}

function setControls() {
  const { options, chosen } = page.state;
  const fields = page.board.templating.list.filter((one) => one.name in options).map((one) =>
    one.multi ? several(one, options[one.name], chosen[one.name]) : single(one.label, options[one.name], chosen[one.name][0] ?? "",
      (value) => { change("var-" + one.name, value); connect(); }, chosen[one.name][0]));
  const words = page.words;
  const names = { 300000: "5m", 900000: "15m", 3600000: "1h", 10800000: "3h", 86400000: "24h", 604800000: "7d", 2592000000: "30d" };
  const zones = [["", words.here], ["UTC", "UTC"], ["Asia/Shanghai", "Asia/Shanghai"], ["Asia/Kolkata", "Asia/Kolkata"], ["Europe/London", "Europe/London"], ["America/New_York", "America/New_York"]];
  const fixed = address.has("from") ? [["", "…"]] : [];
  fields.push(single(words.range, [...fixed, ...Object.values(names).map((name) => [name, name])], fixed.length ? "" : names[page.state.back] ?? "",
    (value) => { change("from", ""); change("to", ""); change("range", value); connect(); }));
  fields.push(single(words.refresh, [["1000", "1 s"], ["5000", "5 s"], ["30000", "30 s"], ["0", words.paused]], kept("every", "5000"), (value) => { change("every", value, true); connect(); }));
  fields.push(single(words.zone, zones, kept("zone", ""), (value) => { change("zone", value, true); page.panels.forEach(redraw); setState(page.state); setStatus(); }));
  fields.push(single(words.theme, [["dark", words.dark], ["light", words.light]], document.documentElement.dataset.theme, (value) => { change("theme", value, true); setTheme(); page.panels.forEach(redraw); }));
  fields.push(single(words.language, [["en", "English"], ["zh", "中文"]], page.language, (value) => { change("lang", value, true); location.reload(); }));
  byId("controls").replaceChildren(...fields);
}

function single(label, choices, value, act, extra) {
  if (extra !== undefined && !choices.some(([one]) => one === extra)) choices = [[extra, extra], ...choices];
  const select = element("select", { onchange: (event) => { act(event.target.value); event.target.blur(); } }, ...choices.map(([one, text]) => element("option", { value: one, selected: one === value }, text)));
  return element("label", { class: "field" }, label, select);
}

function several(variable, options, chosen) {
  const all = chosen.includes(ALL);
  const texts = new Map(options);
  const named = (value) => texts.get(value) || value || "–";
  const summary = all ? page.words.all : chosen.length === 1 ? named(chosen[0]) : chosen.length ? `${chosen.length} ${page.words.of}` : page.words.none;
  const box = (value, text, checked) => element("label", {}, element("input", { type: "checkbox", value, checked }), text);
  const list = element("div", { class: "choices" }, box(ALL, page.words.all, all), ...[...new Set([...chosen.filter((c) => c !== ALL), ...texts.keys()])].map((one) => box(one, named(one), !all && chosen.includes(one))));
  const details = element("details", {}, element("summary", { "aria-label": `${variable.label}: ${summary}` }, summary), list);
  list.addEventListener("change", (event) => {
    const boxes = [...list.querySelectorAll("input")];
    if (event.target.value === ALL && event.target.checked) boxes.forEach((one) => { one.checked = one.value === ALL; });
    else if (event.target.value !== ALL) boxes[0].checked = false;
    details.dirty = boxes.filter((one) => one.checked).map((one) => one.value);
  });
  details.addEventListener("toggle", () => {
    if (details.open || !details.dirty) return;
    change("var-" + variable.name, details.dirty);
    connect();
  });
  details.addEventListener("keydown", (event) => { if (event.key === "Escape") { details.open = false; details.firstChild.focus(); } });
  return element("div", { class: "field" }, variable.label, details);
}

document.addEventListener("click", (event) => {
  for (const one of document.querySelectorAll("details[open]")) if (!one.contains(event.target)) one.open = false;
});
document.addEventListener("visibilitychange", () => (document.hidden ? release() : resume()));
addEventListener("pagehide", release);
addEventListener("pageshow", resume);
start().catch((error) => { console.error(error); status("lost", String(error)); });
