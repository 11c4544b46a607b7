// The page of a Penstock agent. Everything that comes from the agent is put in as text: names from logs,
// media and peers can't become markup. Only this server is asked.
"use strict";

const ASK_EVERY = 2000;
const SVG = "http://www.w3.org/2000/svg";
// The newest so many are shown; the rest is counted.
const ALARMS_MAX = 100;
const LISTED = 12;
// The heights of a chain's strip, and of the marks below it.
const STRIP = 20;
const MARKS = 7;

/** An element with attributes, and children that are elements or text. */
function el(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children.flat().map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** The same for a drawing. */
function draw(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const count = (value) => Number(value || 0).toLocaleString("en").replaceAll(",", " ");

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let number = Number(value || 0);
  while (number >= 1024 && at < units.length - 1) { number /= 1024; at += 1; }
  return `${number.toFixed(at === 0 || number >= 100 ? 0 : 1)} ${units[at]}`;
}

function span(secs) {
  if (secs === null || secs === undefined) return "-";
  const sign = secs < 0 ? "-" : "";
  const s = Math.abs(secs);
  if (s < 1) return `${sign}${Math.round(s * 1000)} ms`;
  if (s < 90) return `${sign}${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 5400) return `${sign}${Math.round(s / 60)} min`;
  if (s < 172800) return `${sign}${(s / 3600).toFixed(1)} h`;
  return `${sign}${(s / 86400).toFixed(1)} d`;
}

const time = (text) => (text ? String(text).replace("T", " ").replace(/\.\d+Z$/, " UTC") : "-");

function chip(text, kind) { return el("span", { class: `chip ${kind}` }, text); }

/** A bar from nothing to all of it, with its meaning in words for who does not see it. */
function bar(part, kind, label) {
  const share = Math.max(0, Math.min(1, part || 0));
  return draw("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label },
    draw("rect", { class: "track", x: 0, y: 0, width: 100, height: 6, rx: 1 }),
    draw("rect", { class: `fill-${kind}`, x: 0, y: 0, width: (share * 100).toFixed(2), height: 6, rx: 1 }));
}

/** What may be wider than the window: it is moved with the keyboard, too, and tells what it is. */
function wide(name, ...children) {
  return el("div", { class: "wide", role: "region", tabindex: "0", "aria-label": name }, children);
}

/** A drawing that says what it is: in one line, and at length to who does not see it. */
function picture(box, kind, title, words, ...parts) {
  return draw("svg", { viewBox: box, class: kind, role: "img", "aria-label": `${title}: ${words}`, ...(kind === "chart" ? {} : { preserveAspectRatio: "none" }) },
    draw("title", {}, title), draw("desc", {}, words), ...parts);
}

function label(x, y, anchor, text) { return draw("text", { x, y, "text-anchor": anchor }, text); }

/** A table: columns are [head, is it a number], rows are lists of texts or elements. */
function table(caption, columns, rows) {
  const head = columns.map(([name, number]) => el("th", { scope: "col", class: number ? "n" : "" }, name));
  const line = (row) => el("tr", typeof row[0] === "string" ? { "data-key": row[0] } : {}, row.map((cell, at) => el("td", { class: columns[at][1] ? "n" : "" }, cell)));
  // What it is stands above what can be moved, so that it is never cut.
  return el("div", { class: "titled" }, el("p", { class: "quiet" }, caption),
    wide(caption, el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map(line)))));
}

const key = (node) => (node.dataset ? node.dataset.key : undefined);
const alike = (one, other) => one.nodeName === other.nodeName && key(one) === key(other);

/**
 * Gives `place` these children, and touches nothing that is so already: what somebody has selected, where
 * the focus is, how far a table was moved, and the place of a screen reader stay. What has a key is known
 * by it: a new row above it does not rewrite the rows below.
 */
function renew(place, children) {
  let at = place.firstChild;
  for (const child of children) {
    if (at && !alike(at, child) && key(child) !== undefined) {
      let found = at;
      while (found && !alike(found, child)) found = found.nextSibling;
      // What stood before it is wanted no more. What stays is never moved: that would unselect it.
      while (found && at !== found) { const next = at.nextSibling; at.remove(); at = next; }
    }
    if (!at || !alike(at, child)) {
      place.insertBefore(child, at);
      continue;
    }
    if (child.nodeType === Node.TEXT_NODE) {
      if (at.data !== child.data) at.data = child.data;
    } else {
      for (const { name, value } of [...child.attributes]) if (at.getAttribute(name) !== value) at.setAttribute(name, value);
      for (const { name } of [...at.attributes]) if (!child.hasAttribute(name)) at.removeAttribute(name);
      renew(at, [...child.childNodes]);
    }
    at = at.nextSibling;
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

/** Shows a section, or hides it where there is nothing. */
function section(id, ...children) {
  const place = document.getElementById(id);
  const content = children.flat();
  if (place.hidden !== (content.length === 0)) place.hidden = content.length === 0;
  renew(place.querySelector(".body"), content);
}

/** The agent's own judgement: the page and `status` say the same. */
function verdict(status) {
  const { level, words } = status.verdict;
  say(level, words);
  const troubles = status.troubles || [];
  const list = document.getElementById("troubles");
  list.hidden = troubles.length === 0;
  renew(list, troubles.map((trouble) => el("li", { class: trouble.level }, trouble.what)));
}

function say(level, words) {
  const place = document.getElementById("verdict");
  place.className = `verdict ${level}`;
  if (place.textContent !== words) place.textContent = words;
}

function alarms(status, advice) {
  const all = status.alarms || [];
  if (all.length === 0) return [el("p", { class: "quiet" }, "There is no alarm.")];
  const when = (alarm) => String(alarm.last || alarm.raised);
  const list = [...all].sort((a, b) => when(b).localeCompare(when(a))).slice(0, ALARMS_MAX);
  const shown = list.map((alarm) => {
    const code = alarm.code || alarm.kind;
    const known = advice[code] || {};
    return el("div", { class: alarm.closed ? "alarm over" : "alarm", "data-key": alarm.id },
      el("p", {}, el("strong", {}, code), " ", alarm.closed ? chip("over", "q") : chip("open", "b"), " ",
        el("span", { class: "quiet" }, time(when(alarm)), alarm.count > 1 ? `, ${alarm.count} times` : "")),
      el("p", {}, alarm.message),
      known.means ? el("p", { class: "quiet" }, `It means: ${known.means}.`) : "",
      known.do ? el("p", {}, el("strong", {}, "What to do: "), known.do) : "");
  });
  const more = all.length - list.length;
  const rest = more > 0 ? [el("p", { "data-key": "more" }, `${count(more)} older ones: penstock-${status.side} status`)] : [];
  const cites = list.some((alarm) => ((advice[alarm.code || alarm.kind] || {}).do || "").includes(".md"));
  const book = cites ? [el("p", { class: "quiet", "data-key": "book" }, `Names that end in .md are pages of the handbook: /usr/share/doc/penstock-${status.side}/`)] : [];
  return [...shown, ...rest, ...book];
}

function lanes(status) {
  return (status.lanes || []).map((lane) => {
    const budget = lane["latency-budget-secs"];
    const left = lane["budget-left-secs"];
    const age = lane["oldest-age-secs"];
    const used = age === null || age === undefined ? 0 : age / budget;
    const kind = used > 1 ? "b" : used > 0.8 ? "w" : "g";
    const words = age === null || age === undefined
      ? `nothing waits; the budget is ${span(budget)}`
      : `the oldest waits for ${span(age)}; ${left > 0 ? `${span(left)} of ${span(budget)} are left` : `the budget of ${span(budget)} is used up`}`;
    return el("div", { class: "card" }, el("h3", {}, `Lane ${lane.lane}`),
      el("div", {}, el("span", { class: "number" }, count(lane["waiting-records"])), " records wait"),
      bar(used, kind, words), el("p", { class: "quiet" }, words),
      el("p", { class: "quiet" }, `${count(lane.received)} received = ${count(lane.buffered)} buffered + ${count(lane.sealed)} sealed + ${count(lane.suppressed)} suppressed + ${count(lane.lost)} lost`));
  });
}

function bundles(status) {
  const found = status.bundles;
  if (!found || !found.ready) return [];
  const order = ["planned", "sealed", "awaiting-release", "released", "refused", "ready", "handed-over"];
  const known = order.filter((state) => found[state]);
  return [el("ol", { class: "steps" }, known.map((state) => {
    const { count: number, bytes: size } = found[state];
    return el("li", { class: number ? "" : "zero" }, el("div", { class: "number" }, count(number)), state.replace("-", " "), el("div", { class: "quiet" }, bytes(size)));
  }))];
}

/**
 * Each chain as a strip of its numbers: what is there, what is missing, what waits behind it; and below,
 * the refused files that say they belong there. The red part of a slice is as high as its share that is
 * missing, so that the red area is what is missing of the whole; but where anything is, it can be seen.
 */
function chains(status) {
  if (!status.strips) return [];
  const sums = new Map((status.chains || []).map((chain) => [chain.chain, chain]));
  const out = status.strips.map((strip) => {
    const sum = sums.get(strip.chain) || { missing: 0 };
    const refused = (status.refused || []).filter((file) => file.chain === strip.chain && file.number !== null);
    const unit = 1000 / strip.last;
    const at = (number) => (number - 1) * unit;
    const held = strip["held-from"];
    const red = strip.missing.map((missing, slice) => {
      if (missing === 0) return "";
      const long = Math.min(strip.slice, strip.last - slice * strip.slice);
      const high = Math.max((missing / long) * STRIP, STRIP / 5);
      return `M${(slice * strip.slice * unit).toFixed(2)} ${(STRIP - high).toFixed(2)}h${(long * unit).toFixed(2)}v${high.toFixed(2)}h-${(long * unit).toFixed(2)}z`;
    }).join("");
    const marks = refused.map((file) => `M${Math.min(at(file.number), 992).toFixed(2)} ${STRIP + 3}h8v${MARKS}h-8z`).join("");
    const part = (100 * sum.missing) / strip.last;
    const missing = sum.missing ? `${count(sum.missing)} of ${count(strip.last)} are missing (${part < 0.1 ? "less than 0.1" : part.toFixed(1)} %)` : `none of ${count(strip.last)} is missing`;
    const words = [missing, held ? `what came from ${count(held)} on waits` : "", refused.length ? `${refused.length} refused file(s) say they belong here: ${[...new Set(refused.map((file) => `${file.number} (${file.code})`))].slice(0, LISTED).join(", ")}` : ""].filter(Boolean);
    const drawing = picture(`0 0 1000 ${STRIP + 3 + MARKS}`, "strip", `Bundles 1 to ${count(strip.last)} of ${strip.chain}`, words.join("; "),
      draw("rect", { class: "fill-g", x: 0, y: 0, width: 1000, height: STRIP }),
      ...(held ? [draw("rect", { class: "fill-w", x: at(held), y: 0, width: 1000 - at(held), height: STRIP })] : []),
      draw("path", { class: "fill-b", d: red || "M0 0" }), draw("path", { class: "fill-q", d: marks || "M0 0" }));
    const gaps = (status.gaps || []).filter((gap) => gap.chain === strip.chain).reverse();
    const listed = gaps.slice(0, LISTED).map((gap) => `${gap.first === gap.last ? gap.first : `${gap.first} to ${gap.last}`}${gap.passed ? " (passed)" : ""}`).join(", ");
    return el("div", { class: "card", "data-key": strip.chain }, el("h3", {}, strip.chain), drawing,
      el("p", { class: "quiet" }, `${count(sum.bundles)} bundles, ${count(sum.records)} records, last ${time(sum["last-admitted"])}`),
      sum.missing ? el("p", {}, chip("missing", "b"), ` ${missing}. Noticed last: ${listed || "long ago"}${gaps.length > LISTED ? " and more" : ""}`) : "",
      held ? el("p", {}, chip("waits", "w"), ` what came from ${count(held)} on`) : "",
      refused.length ? el("p", {}, chip("refused", "r"), ` ${words.at(-1)}`) : "");
  });
  if (out.length === 0) out.push(el("p", { class: "quiet" }, "No bundle has come yet."));
  const older = sums.size - status.strips.length;
  if (older > 0) out.push(el("p", { class: "quiet" }, `${count(older)} older chains: penstock-low status`));
  return out;
}

/** What was refused, by reason, and the files that came last. */
function quarantine(status) {
  const codes = Object.entries(status["quarantine-codes"] || {});
  if (codes.length === 0) return [];
  const most = Math.max(...codes.map(([, number]) => number));
  const rows = codes.sort(([, a], [, b]) => b - a).map(([code, number]) => [code, el("div", {}, bar(number / most, "q", `${code}: ${number} of ${most}`)), count(number)]);
  const files = (status.refused || []).slice(0, LISTED).map((file) => [time(file.last), file.name, file.code, file.chain ? `${file.chain}, number ${file.number}` : "nothing that can be read", file.sha256.slice(0, 12)]);
  return [table("Refused files by reason", [["Reason"], ["Share"], ["Files", true]], rows),
    table("Refused last; what a file says of itself is not proven", [["When"], ["Name"], ["Reason"], ["Says that it is"], ["SHA-256"]], files)];
}

function sinks(status) {
  if (!status.sinks || status.sinks.length === 0) return [];
  const health = (status.agent && status.agent.sinks) || {};
  const rows = status.sinks.map((sink) => {
    const now = health[sink.name] || {};
    const kind = now.circuit === "open" || now.state === "failing" || now.state === "blocked" ? "b" : sink.pending > 0 ? "w" : "g";
    const trouble = now.error ? [el("div", {}, now.error), now["next-try"] ? el("div", { class: "quiet" }, `tried again ${time(now["next-try"])}`) : ""] : "-";
    const lag = sink["waiting-since"] ? span((Date.parse(status.time) - Date.parse(sink["waiting-since"])) / 1000) : "-";
    return [sink.name, chip(now.state || "not running", now.state ? kind : "q"), count(sink.delivered), count(sink.pending), lag, count(sink.filtered), count(sink.rejected), el("div", {}, trouble)];
  });
  const out = [table("Records: delivered, waiting and for how long, left out by a filter, refused for good", [["Sink"], ["State"], ["Delivered", true], ["Pending", true], ["Lag", true], ["Filtered", true], ["Rejected", true], ["Trouble"]], rows)];
  const archives = status.archives || [];
  if (archives.length > 0) {
    const kept = (status.agent && status.agent.archives) || {};
    out.push(table("Archives", [["Archive"], ["State"], ["Bundles", true], ["Bytes", true], ["Waiting", true], ["Lag", true], ["Trouble"]], archives.map((archive) => {
      const now = kept[archive.name] || {};
      const kind = now.state === "failing" || now.state === "blocked" ? "b" : archive.waiting > 0 ? "w" : "g";
      const lag = archive["waiting-since"] ? span((Date.parse(status.time) - Date.parse(archive["waiting-since"])) / 1000) : "-";
      return [archive.name, chip(now.state || "not running", now.state ? kind : "q"), count(archive.archived), bytes(archive.bytes), count(archive.waiting), lag, now.error || "-"];
    })));
  }
  return out;
}

/** How the times of some records are spread: a column for each power of two of a millisecond. */
function spread(name, octaves, budget, over) {
  const [width, height, left, bottom, top] = [360, 150, 44, 22, 18];
  const column = (ms) => (ms < 1 ? 0 : Math.log2(ms) + 1);
  const all = octaves.reduce((sum, octave) => sum + octave.records, 0);
  const first = Math.max(Math.min(...octaves.map((octave) => column(octave["from-ms"]))) - 1, 0);
  let end = Math.max(...octaves.map((octave) => column(octave["from-ms"]))) + 1;
  const near = column(budget) < end + 4;
  end = Math.max(near ? Math.ceil(column(budget)) + 1 : end, first + 6);
  const x = (at) => left + ((width - left - 4) * (at - first)) / (end - first);
  const most = Math.max(...octaves.map((octave) => octave.records));
  const y = (records) => top + (height - bottom - top) * (1 - records / most);
  const parts = [draw("line", { class: "axis", x1: left, x2: width - 4, y1: y(0), y2: y(0) }), label(left - 4, y(most) + 4, "end", `${Math.round((100 * most) / all)} %`), label(left - 4, y(0), "end", "0")];
  for (const { "from-ms": from, records } of octaves) {
    const at = column(from);
    parts.push(draw("rect", { class: from >= budget ? "fill-b" : "fill-a", x: (x(at) + 1).toFixed(1), y: y(records).toFixed(1), width: Math.max(x(at + 1) - x(at) - 2, 1).toFixed(1), height: Math.max(y(0) - y(records), 1).toFixed(1) }));
  }
  for (let at = first; at <= end; at += Math.max(Math.round((end - first) / 4), 1)) {
    parts.push(label(x(at).toFixed(1), height - 6, at === first ? "start" : at + 1 >= end ? "end" : "middle", at === 0 ? "0" : span(2 ** (at - 1) / 1000)));
  }
  if (near) {
    const line = x(column(budget)).toFixed(1);
    parts.push(draw("line", { class: "limit", x1: line, x2: line, y1: top - 4, y2: y(0) }), label(line, top - 6, Number(line) > width / 2 ? "end" : "start", `budget ${span(budget / 1000)}`));
  }
  const peak = octaves.find((octave) => octave.records === most)["from-ms"];
  const words = `${count(all)} records, the largest part between ${span(peak / 1000)} and ${span(Math.max(peak * 2, 1) / 1000)}; ${over ? count(over) : "none"} over the budget of ${span(budget / 1000)}`;
  return el("div", { class: "card", "data-key": name }, el("h3", {}, name), picture(`0 0 ${width} ${height}`, "chart", `How long records took, ${name}`, words, ...parts), el("p", { class: "quiet" }, words));
}

function latency(status) {
  if (!status.latency || status.latency.length === 0) return [];
  const groups = new Map();
  for (const sum of status.latency) {
    const name = `${sum.sink}, ${sum.lane}, ${sum.hop.replaceAll("-", " ")}`;
    const group = groups.get(name) || { octaves: new Map(), budget: sum["budget-ms"], over: 0 };
    for (const octave of sum.octaves || []) group.octaves.set(octave["from-ms"], (group.octaves.get(octave["from-ms"]) || 0) + octave.records);
    group.over += sum["over-budget"];
    groups.set(name, group);
  }
  const drawn = [...groups].filter(([, group]) => group.octaves.size > 0).slice(0, LISTED);
  const spreads = drawn.map(([name, { octaves, budget, over }]) => spread(name, [...octaves].sort(([a], [b]) => a - b).map(([from, records]) => ({ "from-ms": from, records })), budget, over));
  const rows = status.latency.map((sum) => {
    const part = sum["p99-ms"] / sum["budget-ms"];
    const words = `p99 is ${span(sum["p99-ms"] / 1000)} of ${span(sum["budget-ms"] / 1000)}`;
    const over = sum["over-budget"];
    return [`${sum.sink || ""} ${sum.lane} ${sum.stream}`, sum.hop.replaceAll("-", " "), span(sum["p50-ms"] / 1000), span(sum["p95-ms"] / 1000), span(sum["p99-ms"] / 1000), span(sum["max-ms"] / 1000),
      el("div", {}, bar(part, part > 1 ? "b" : part > 0.8 ? "w" : "g", words), el("span", { class: "quiet" }, words)), over ? chip(count(over), "b") : "0"];
  });
  const clocks = (status.clocks || []).map(({ origin, "shortest-ms": least }) => el("p", { class: "quiet" },
    least < 0 ? `Our clock is at least ${span(-least / 1000)} behind that of ${origin}.` : `Our clock is at most ${span(least / 1000)} ahead of that of ${origin}.`));
  return [el("div", { class: "cards" }, spreads), ...clocks, table("From where to where, over all records of the lane and stream", [["Sink, lane, stream"], ["Hop"], ["p50", true], ["p95", true], ["p99", true], ["max", true], ["Budget"], ["Over", true]], rows)];
}

function links(status) {
  const live = status.live || {};
  const out = [];
  if (live.listeners && live.listeners.length > 0) {
    out.push(table("Listeners", [["Name"], ["Address"], ["Messages", true], ["Bytes", true], ["Open", true], ["Cut", true], ["Lost", true]],
      live.listeners.map(({ name, address, counters: c }) => [name, address, count(c.messages), bytes(c.bytes), count(c["connections-open"]), count(c.truncated), count(c["datagrams-lost"])])));
  }
  if (live.files && live.files.length > 0) {
    const counted = (file) => Object.entries(file.counters || {}).filter(([, value]) => typeof value === "number" && value > 0).map(([name, value]) => `${count(value)} ${name.replaceAll("-", " ")}`).join(", ");
    out.push(table("Files", [["Name"], ["Files", true], ["Counted since the start"]], live.files.map((file) => [file.name, count((file.files || []).length), counted(file) || "-"])));
  }
  if (live.carriers && live.carriers.length > 0) {
    out.push(table("Carriers", [["Name"], ["Type"], ["Lanes"], ["Bundles", true], ["Bytes", true], ["Waiting", true], ["Trouble"]],
      live.carriers.map(({ name, type, lanes: of, counters: c }) => [name, type, of.join(", "), count(c.bundles), bytes(c.bytes), count(c.waiting), c.trouble || "-"])));
  }
  const receivers = (status.agent && status.agent.receivers) || [];
  if (receivers.length > 0) {
    out.push(table("Receivers", [["Name"], ["Type"], ["Bundles", true], ["Bytes", true], ["Wrong", true], ["Trouble"]],
      receivers.map(({ name, type, counters: c }) => [name, type || "-", count(c.bundles), bytes(c.bytes), count(c.wrong), c.trouble || "-"])));
  }
  return out;
}

function disk(status) {
  if (!status.disk) return [];
  const out = [];
  const buffer = status.buffer || {};
  if (buffer["quota-bytes"]) {
    const used = buffer["used-bytes"] / buffer["quota-bytes"];
    const words = `${bytes(buffer["used-bytes"])} of ${bytes(buffer["quota-bytes"])} used`;
    out.push(el("div", {}, el("strong", {}, "the buffer's quota"), bar(used, used > 0.9 ? "b" : used > 0.7 ? "w" : "a", words), el("span", { class: "quiet" }, words)));
  }
  return out.concat(status.disk.map(({ what, path, "free-bytes": free, "total-bytes": all }) => {
    const used = all > 0 ? 1 - free / all : 0;
    const words = `${bytes(free)} of ${bytes(all)} free`;
    return el("div", {}, el("strong", {}, what), ` ${path}`, bar(used, used > 0.95 ? "b" : used > 0.85 ? "w" : "a", words), el("span", { class: "quiet" }, words));
  }));
}

/** The flow of each stream, records a second, over the last hour. */
function flow(history) {
  const streams = Object.entries(history.streams || {}).filter(([, points]) => points.some(([, rate]) => rate > 0));
  if (streams.length === 0) return [el("p", { class: "quiet" }, "Nothing has come in the last hour.")];
  // One unit is one pixel, so that words have their size in every window.
  const room = document.querySelector("#flow .body").clientWidth;
  const [width, height, left, bottom] = [Math.max(room, 260), 220, 46, 22];
  const rates = (points) => points.map(([, rate]) => rate || 0);
  const top = Math.max(...streams.flatMap(([, points]) => rates(points)), 1);
  const oldest = Math.max(...streams.flatMap(([, points]) => points.map(([ago]) => ago)), 60);
  const x = (ago) => left + (width - left - 6) * (1 - ago / oldest);
  const y = (rate) => 8 + (height - bottom - 8) * (1 - rate / top);
  const now = (points) => rates(points).at(-1);
  const most = (points) => Math.max(...rates(points));
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(draw("line", { class: "axis", x1: left, x2: width - 6, y1: y(top * share), y2: y(top * share) }),
      label(left - 6, y(top * share) + 4, "end", (top * share).toFixed(top < 10 ? 1 : 0)));
  }
  for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    parts.push(label(x(oldest * share), height - 6, anchor, share === 0 ? "now" : `${span(oldest * share)} ago`));
  }
  streams.forEach(([, points], at) => {
    // Where the agent did not run, nobody knows, and the line is broken.
    const line = points.map(([ago, rate], point) => (rate === null ? "" : `${point === 0 || points[point - 1][1] === null ? "M" : "L"}${x(ago).toFixed(1)} ${y(rate).toFixed(1)}h0`)).join("");
    parts.push(draw("path", { class: `line s${at % 6}`, d: line || "M0 0" }));
  });
  const words = streams.map(([name, points]) => `${name}: ${now(points)} a second now, ${most(points)} at most`).join("; ");
  return [picture(`0 0 ${width} ${height}`, "chart", "Records a second, by stream", words, ...parts),
    el("ul", { class: "legend" }, streams.map(([name, points], at) => el("li", { class: `s${at % 6}` }, el("span", {}, `${name}, ${now(points)}/s`)))),
    table("Records a second", [["Stream"], ["Now", true], ["At most", true]], streams.map(([name, points]) => [name, String(now(points)), String(most(points))]))];
}

function show(status, history) {
  document.getElementById("side").textContent = status.side === "low" ? "low side" : "high side";
  document.getElementById("name").textContent = status.origin || status.name || "";
  document.title = `Penstock ${status.side || ""} ${status.origin || ""}`;
  document.getElementById("asof").textContent = `as of ${time(status.time)}`;
  verdict(status);
  section("alarms", alarms(status, status.advice || {}));
  section("lanes", lanes(status));
  section("bundles", bundles(status));
  section("chains", chains(status));
  section("quarantine", quarantine(status));
  section("flow", flow(history));
  section("sinks", sinks(status));
  section("latency", latency(status));
  section("links", links(status));
  section("disk", disk(status));
}

async function asked(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.text()).slice(0, 300)}`);
  return answer.json();
}

async function look() {
  try {
    const [status, history] = await Promise.all([asked("/status.json"), asked("/history.json")]);
    show(status, history);
  } catch (error) {
    say("bad", `The agent does not answer: ${error.message}`);
  }
  window.setTimeout(look, document.hidden ? 5 * ASK_EVERY : ASK_EVERY);
}

async function life(event) {
  event.preventDefault();
  const place = document.querySelector("#life .body");
  const name = document.getElementById("life-name").value.trim();
  if (!name) return;
  try {
    const told = await asked(`/life.json?bundle=${encodeURIComponent(name)}`);
    const lives = Array.isArray(told) ? told : told.lives || [told];
    place.replaceChildren(...lives.map((one) => table(`${(one.bundle && [one.bundle.origin, one.bundle.epoch, one.bundle.lane, one.bundle.number].join("/")) || name}`,
      [["When"], ["Who"], ["What"], ["Details"]],
      (one.entries || []).map((entry) => [time(entry.at), entry.who || "-", entry.action, entry.detail || (entry.file && entry.file.name) || "-"]))));
  } catch (error) {
    place.replaceChildren(el("p", { class: "notice" }, error.message));
  }
}

document.getElementById("life-form").addEventListener("submit", life);
look();
