// Figures and times as people read them. Units are Grafana's ids, as the dashboard JSON names them.

const SHORT = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

const round = (value, decimals) =>
  value.toLocaleString("en-US", { minimumFractionDigits: decimals ?? 0, maximumFractionDigits: decimals ?? 2 });

export function short(value, decimals) {
  for (const [limit, suffix] of SHORT)
    if (Math.abs(value) >= limit && Math.abs(value) >= 10_000) return round(value / limit, decimals ?? 1) + " " + suffix;
  return round(value, decimals ?? (Number.isInteger(value) || Math.abs(value) >= 100 ? 0 : 2));
}

export function duration(seconds, decimals) {
  const size = Math.abs(seconds);
  const steps = [[86400 * 365.25, "y"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"]];
  const [limit, unit] = steps.find(([limit]) => size >= limit) ?? [1, "s"];
  const most = unit === "s" || unit === "ms" ? decimals ?? 1 : 1;
  return (seconds / limit).toLocaleString("en-US", { maximumFractionDigits: most }) + " " + unit;
}

export function shown(value, unit, decimals, zone) {
  if (value === null || value === undefined || value === "") return "–";
  if (unit === "dateTimeAsIso") return moment(typeof value === "number" ? value : Date.parse(value), zone);
  if (typeof value !== "number") return String(value);
  if (!unit || unit === "none") return round(value, decimals);
  if (unit === "short") return short(value, decimals);
  if (unit === "percentunit") return round(value * 100, decimals ?? 1) + " %";
  if (unit === "s") return duration(value, decimals);
  if (unit === "m") return duration(value * 60, decimals);
  if (unit === "eps") return short(value, decimals) + " /s";
  if (unit === "cpm") return short(value, decimals) + " /min";
  if (unit.startsWith("currency:")) return unit.slice(9) + (Math.abs(value) >= 1e5 ? short(value, decimals ?? 1) : round(value, decimals ?? 0));
  if (unit.startsWith("suffix:")) return round(value, decimals) + unit.slice(7);
  return short(value, decimals);
}

// How Plotly writes ticks of an axis that reaches up to `most`: [format, prefix, suffix].
export function axis(unit, most) {
  const format = most < 10_000 ? ",.2~f" : "~s";
  if (unit === "percentunit") return [".2~%", "", ""];
  if (unit?.startsWith("currency:")) return [format, unit.slice(9), ""];
  return [format, "", { s: " s", eps: " /s", cpm: " /min" }[unit] ?? ""];
}

const formats = new Map();
function parts(ms, zone) {
  if (!formats.has(zone))
    formats.set(zone, new Intl.DateTimeFormat("sv-SE", {
      timeZone: zone || undefined, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
      second: "2-digit", hourCycle: "h23",
    }));
  return formats.get(zone).format(ms);
}

// "2026-02-01 20:15:03" in the zone: what Plotly takes for a date, too.
export const local = (value, zone) => parts(typeof value === "number" ? value : Date.parse(value), zone);

export const moment = (ms, zone) => (Number.isFinite(ms) ? parts(ms, zone) : "–");

// Plotly reads a little HTML in its texts, and these come from events.
export const inert = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
