// The page of a Penstock agent. Everything that comes from the agent is put in as text: names from logs,
// media and peers can't become markup. Only this server is asked.
"use strict";

const ASK_EVERY = 2000;
const SVG = "http://www.w3.org/2000/svg";

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

/** A table: columns are [head, is it a number], rows are lists of texts or elements. */
function table(caption, columns, rows) {
  const head = columns.map(([name, number]) => el("th", { scope: "col", class: number ? "n" : "" }, name));
  const line = (row) => el("tr", {}, row.map((cell, at) => el("td", { class: columns[at][1] ? "n" : "" }, cell)));
  // What it is stands above what can be moved, so that it is never cut.
  return el("div", { class: "titled" }, el("p", { class: "quiet" }, caption),
    wide(caption, el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map(line)))));
}

/** Shows a section, or hides it where there is nothing. Who is in a wide part of it stays there. */
function section(id, ...children) {
  const place = document.getElementById(id);
  const content = children.flat();
  place.hidden = content.length === 0;
  const before = [...place.querySelectorAll(".wide")].map((part) => [part.ariaLabel, part.scrollLeft, part === document.activeElement]);
  place.querySelector(".body").replaceChildren(...content);
  for (const [name, left, focused] of before) {
    const now = [...place.querySelectorAll(".wide")].find((part) => part.ariaLabel === name);
    if (!now) continue;
    now.scrollLeft = left;
    if (focused) now.focus({ preventScroll: true });
  }
}

/** What does not work at the moment, in words. */
function troubles(status) {
  const found = [];
  const live = status.live || {};
  for (const [name, sink] of Object.entries((status.agent && status.agent.sinks) || {})) {
    if (sink.state === "failing" || sink.state === "blocked") found.push(`sink ${name} is ${sink.state}`);
  }
  const receivers = (status.agent && status.agent.receivers) || [];
  for (const [what, list] of [["carrier", live.carriers || []], ["receiver", receivers]]) {
    for (const one of list) if (one.counters && one.counters.trouble) found.push(`${what} ${one.name} has trouble`);
  }
  if (live["sealer-trouble"]) found.push("the sealer has trouble");
  if (live.writer && live.writer.state !== "flowing") found.push(`the buffer is ${live.writer.state}`);
  return found;
}

function verdict(status) {
  const open = (status.alarms || []).filter((alarm) => !alarm.closed);
  const place = document.getElementById("verdict");
  let [kind, words] = ["good", "Everything adds up, and nothing is wrong"];
  if (status["adds-up"] === false) [kind, words] = ["bad", "The sums do not add up"];
  else if (open.length > 0) [kind, words] = ["bad", `${open.length} alarm${open.length > 1 ? "s" : ""} to look at`];
  else if ((status.alarms || []).length > 0) [kind, words] = ["warn", "Alarms that are over wait to be acknowledged"];
  else if ((status.gaps || []).some((gap) => !gap.passed)) [kind, words] = ["warn", "Bundles are missing"];
  const broken = troubles(status);
  if (broken.length > 0) {
    if (kind === "good") [kind, words] = ["warn", `Everything adds up; ${broken[0]}`];
    else words += `; ${broken[0]}`;
    if (broken.length > 1) words += ` (and ${broken.length - 1} more)`;
  }
  place.className = `verdict ${kind}`;
  if (place.textContent !== words) place.textContent = words;
}

function alarms(status, advice) {
  const list = status.alarms || [];
  if (list.length === 0) return [el("p", { class: "quiet" }, "There is no alarm.")];
  return list.map((alarm) => {
    const code = alarm.code || alarm.kind;
    const known = advice[code] || {};
    return el("div", { class: alarm.closed ? "alarm over" : "alarm" },
      el("p", {}, el("strong", {}, code), " ", alarm.closed ? chip("over", "q") : chip("open", "b"), " ",
        el("span", { class: "quiet" }, time(alarm.last || alarm.raised), alarm.count > 1 ? `, ${alarm.count} times` : "")),
      el("p", {}, alarm.message),
      known.means ? el("p", { class: "quiet" }, `It means: ${known.means}.`) : "",
      known.do ? el("p", {}, el("strong", {}, "What to do: "), known.do) : "");
  });
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

/** Each chain as a strip of its numbers: what is there, what is missing, what waits behind it. */
function chains(status) {
  if (!status.chains) return [];
  const out = [];
  for (const chain of status.chains) {
    const gaps = (status.gaps || []).filter((gap) => gap.chain === chain.chain);
    const last = Math.max(chain.bundles + chain.missing, ...gaps.map((gap) => gap.last), 1);
    const held = gaps.filter((gap) => !gap.passed).reduce((least, gap) => Math.min(least, gap.first), Infinity);
    const scale = 100 / last;
    const label = `bundles 1 to ${last}, ${chain.missing} missing`;
    const strip = draw("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label },
      draw("rect", { class: "fill-g", x: 0, y: 0, width: 100, height: 6 }));
    if (held < Infinity) strip.append(draw("rect", { class: "fill-w", x: (held - 1) * scale, y: 0, width: 100 - (held - 1) * scale, height: 6 }));
    for (const gap of gaps) {
      strip.append(draw("rect", { class: "fill-b", x: (gap.first - 1) * scale, y: 0, width: Math.max((gap.last - gap.first + 1) * scale, 0.6), height: 6 }));
    }
    const missing = gaps.map((gap) => `${gap.first === gap.last ? gap.first : `${gap.first} to ${gap.last}`}${gap.passed ? " (passed)" : ""}`).join(", ");
    out.push(el("div", { class: "card" }, el("h3", {}, chain.chain), strip,
      el("p", { class: "quiet" }, `${count(chain.bundles)} bundles, ${count(chain.records)} records, last ${time(chain["last-admitted"])}`),
      missing ? el("p", {}, chip("missing", "b"), ` ${missing}${held < Infinity ? "; what stands behind waits" : ""}`) : ""));
  }
  const codes = Object.entries(status["quarantine-codes"] || {});
  if (codes.length > 0) {
    out.push(table("In quarantine", [["Reason"], ["Files", true]], codes.map(([code, number]) => [code, count(number)])));
  }
  if (out.length === 0) out.push(el("p", { class: "quiet" }, "No bundle has come yet."));
  return out;
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

function latency(status) {
  if (!status.latency || status.latency.length === 0) return [];
  const rows = status.latency.map((sum) => {
    const part = sum["p99-ms"] / sum["budget-ms"];
    const words = `p99 is ${span(sum["p99-ms"] / 1000)} of ${span(sum["budget-ms"] / 1000)}`;
    const over = sum["over-budget"];
    return [`${sum.sink || ""} ${sum.lane} ${sum.stream}`, sum.hop.replaceAll("-", " "), span(sum["p50-ms"] / 1000), span(sum["p95-ms"] / 1000), span(sum["p99-ms"] / 1000), span(sum["max-ms"] / 1000),
      el("div", {}, bar(part, part > 1 ? "b" : part > 0.8 ? "w" : "g", words), el("span", { class: "quiet" }, words)), over ? chip(count(over), "b") : "0"];
  });
  const clocks = (status.clocks || []).map(({ origin, "shortest-ms": least }) => el("p", { class: "quiet" },
    least < 0 ? `Our clock is at least ${span(-least / 1000)} behind that of ${origin}.` : `Our clock is at most ${span(least / 1000)} ahead of that of ${origin}.`));
  return [...clocks, table("From where to where, over all records of the lane and stream", [["Sink, lane, stream"], ["Hop"], ["p50", true], ["p95", true], ["p99", true], ["max", true], ["Budget"], ["Over", true]], rows)];
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
  if (streams.length === 0) return [el("p", { class: "quiet" }, "Nothing has come in the last hour, or since the agent was started.")];
  // One unit is one pixel, so that words have their size in every window.
  const room = document.querySelector("#flow .body").clientWidth;
  const [width, height, left, bottom] = [Math.max(room, 260), 220, 46, 22];
  const top = Math.max(...streams.flatMap(([, points]) => points.map(([, rate]) => rate)), 1);
  const oldest = Math.max(...streams.flatMap(([, points]) => points.map(([ago]) => ago)), 60);
  const x = (ago) => left + (width - left - 6) * (1 - ago / oldest);
  const y = (rate) => 8 + (height - bottom - 8) * (1 - rate / top);
  const words = streams.map(([name, points]) => `${name}: ${points.at(-1)[1]} a second now, ${Math.max(...points.map(([, r]) => r))} at most`).join("; ");
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": words });
  for (const share of [0, 0.5, 1]) {
    picture.append(draw("line", { class: "axis", x1: left, x2: width - 6, y1: y(top * share), y2: y(top * share) }));
    const label = draw("text", { x: left - 6, y: y(top * share) + 4, "text-anchor": "end" });
    label.textContent = (top * share).toFixed(top < 10 ? 1 : 0);
    picture.append(label);
  }
  for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const label = draw("text", { x: x(oldest * share), y: height - 6, "text-anchor": anchor });
    label.textContent = share === 0 ? "now" : `${span(oldest * share)} ago`;
    picture.append(label);
  }
  streams.forEach(([, points], at) => {
    picture.append(draw("polyline", { class: `s${at % 6}`, points: points.map(([ago, rate]) => `${x(ago).toFixed(1)},${y(rate).toFixed(1)}`).join(" ") }));
  });
  return [el("p", { class: "quiet" }, "Records a second, by stream"), picture,
    el("ul", { class: "legend" }, streams.map(([name, points], at) => el("li", { class: `s${at % 6}` }, el("span", {}, `${name}, ${points.at(-1)[1]}/s`))))];
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
    const place = document.getElementById("verdict");
    place.className = "verdict bad";
    place.textContent = `The agent does not answer: ${error.message}`;
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
