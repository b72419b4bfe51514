"use strict";
// The page is one client of the same API as everybody else: it asks POST /v1/completions (or
// /v1/chat/completions) for one event per committed group and draws the events as they come.

const TEXTS = {
  en: {
    lead: "A Transformer that writes K tokens per step. Each shaded block is one step.",
    controls: "Settings", model: "Model", input: "Text to translate", prompt: "Prompt",
    chat: "Send as a chat message", size: "Tokens per step, K =", mode: "Mode",
    fast: "fast: keep the whole group", adaptive: "adaptive: keep the confident tokens",
    exact: "exact: identical to K=1", temperature: "Temperature", length: "Maximum tokens",
    speed: "Playback", real: "real time", slow5: "5× slower", slow20: "20× slower",
    key: "API key", race: "Race against K=1", run: "Run", stop: "Stop",
    keys: "Ctrl+Enter runs, Esc stops.", metrics: "Metrics",
    step: "step", proposed: "proposed", kept: "kept", rejected: "rejected",
    confidence: "confidence", counts: (s, t) => `${s} steps · ${t} tokens · ${(t / Math.max(s, 1)).toFixed(2)} tokens per step`,
    strip: "Tokens kept (colour) and rejected (grey) in each step", end: "the end of the text",
    measuring: (t) => `Measuring: ${t} tokens`,
    note: "The two were measured one after the other, so that neither slows the other down. The playback shows them side by side.",
    names: { fast: "fast", adaptive: "adaptive", exact: "exact" },
    verdict: (k, a, b, same) => `K=${k}: ${Math.round(a)} ms, K=1: ${Math.round(b)} ms. Speed-up: ${(b / a).toFixed(2)}×. ` +
      (same ? "The texts are identical." : "The texts differ."),
    stopped: "stopped", lost: "The server cannot be reached.", empty: "Write some text first.",
    other: "中文", sample: "I have never seen such a beautiful garden, and I would like to come back next year.",
    word: "international", story: "It is a truth universally acknowledged",
  },
  zh: {
    lead: "每步生成 K 个词元的 Transformer。下面每个色块就是一步。",
    controls: "设置", model: "模型", input: "待翻译文本", prompt: "提示词（prompt）",
    chat: "作为对话消息发送", size: "每步词元数 K =", mode: "模式",
    fast: "快速（fast）：整组保留", adaptive: "自适应（adaptive）：只保留有把握的词元",
    exact: "精确（exact）：与 K=1 完全相同", temperature: "温度", length: "最多词元数",
    speed: "播放速度", real: "实时", slow5: "放慢 5 倍", slow20: "放慢 20 倍",
    key: "API 密钥", race: "与 K=1 对比", run: "运行", stop: "停止",
    keys: "Ctrl+Enter 运行，Esc 停止。", metrics: "监控指标",
    step: "第", proposed: "提出", kept: "保留", rejected: "拒绝",
    confidence: "置信度", counts: (s, t) => `${s} 步 · ${t} 个词元 · 每步 ${(t / Math.max(s, 1)).toFixed(2)} 个`,
    strip: "每一步保留（彩色）与拒绝（灰色）的词元数", end: "文本结束",
    measuring: (t) => `正在测量：${t} 个词元`,
    note: "两者先后测量，互不影响；回放时并排显示。",
    names: { fast: "快速", adaptive: "自适应", exact: "精确" },
    verdict: (k, a, b, same) => `K=${k}：${Math.round(a)} 毫秒，K=1：${Math.round(b)} 毫秒，速度是 K=1 的 ${(b / a).toFixed(2)} 倍。` +
      (same ? "两段文本完全相同。" : "两段文本不同。"),
    stopped: "已停止", lost: "无法连接服务器。", empty: "请先输入文本。",
    other: "English", sample: "I have never seen such a beautiful garden, and I would like to come back next year.",
    word: "international", story: "It is a truth universally acknowledged",
  },
};

const $ = (id) => document.getElementById(id);
let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let models = [];
let running = null; // the AbortController of the race in progress
let verdict = () => ""; // what the last race showed, in the language of the page

function text(key) { return TEXTS[language][key]; }

function translatePage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  $("language").textContent = text("other");
  $("language").lang = language === "zh" ? "en" : "zh";
  for (const strip of document.querySelectorAll(".strip")) strip.setAttribute("aria-label", text("strip"));
  $("input-label").textContent = text(causal() ? "prompt" : "input");
  for (const node of document.querySelectorAll(".lane")) node.lane?.count();
  for (const node of document.querySelectorAll("[data-tip]")) node.dataset.tip = tipOf(...node.facts);
  $("verdict").textContent = verdict();
  nameLanes();
}

function show(next) { verdict = next; $("verdict").textContent = verdict(); }

function chosen() { return models.find((model) => model.id === $("model").value); }
function causal() { return chosen()?.kind === "generation"; }
function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}
function mode() { return document.querySelector("input[name=mode]:checked").value; }

function nameLanes() {
  $("lane-groups").querySelector(".name").textContent = `K = ${$("size").value} · ${text("names")[mode()]}`;
  $("lane-one").querySelector(".name").textContent = "K = 1";
  $("lane-one").hidden = !$("race").checked;
}

let example = ""; // the text that the page put there itself

function showModel() {
  const model = chosen();
  if (!model) return;
  if (model.largest_group_size === 1 && model.largest_exact_group_size > 1) {
    document.querySelector("input[name=mode][value=exact]").checked = true; // it writes groups so only
  }
  showSizes();
  $("chat-row").hidden = !model.chat;
  $("chat").checked = Boolean(model.chat);
  $("length-row").hidden = !causal();
  const between = model.languages.length === 2; // else no translation, but say of spellings
  if (!$("input").value) $("input").value = example = text(causal() ? "story" : between ? "sample" : "word");
  translatePage();
}

function showSizes() {
  const model = chosen();
  if (!model) return;
  $("size").max = mode() === "exact" ? model.largest_exact_group_size : model.largest_group_size;
  $("size-value").textContent = $("size").value;
  nameLanes();
}

function problem(message) {
  $("problem").hidden = !message;
  $("problem").textContent = message || "";
}

// One lane: a request, its events in the order they came, and how they are drawn.
class Lane {
  constructor(node, slower) {
    this.node = node;
    node.lane = this;
    this.slower = slower;
    this.shown = { text: "", steps: 0, tokens: 0 };
    this.clock = node.querySelector(".clock");
    for (const name of [".text", ".strip", ".steps"]) node.querySelector(name).replaceChildren();
    node.querySelector(".counts").textContent = "";
    this.clock.textContent = "0 ms";
  }

  count() {
    if (!this.shown.steps) return;
    this.node.querySelector(".counts").textContent = text("counts")(this.shown.steps, this.shown.tokens);
  }

  draw(event, milliseconds) {
    const facts = event.multistride;
    const choice = event.choices[0];
    const piece = choice?.text ?? choice?.delta?.content ?? "";
    if (!facts) return;
    this.shown.text += piece;
    this.shown.steps += 1;
    this.shown.tokens += facts.accepted;
    const span = document.createElement("span");
    span.className = `group s${facts.step % 5}` + (choice.finish_reason === "stop" ? " end" : "");
    const words = piece.trimStart(); // space before a word is no part of its shade: lines break there
    const blank = words ? piece.slice(0, piece.length - words.length) : "";
    span.textContent = words || piece;
    span.tabIndex = 0;
    span.facts = [facts, choice.finish_reason];
    span.dataset.tip = tipOf(...span.facts);
    this.node.querySelector(".text").append(blank, span);
    const bar = document.createElement("div");
    bar.className = `bar ${facts.mode}`;
    bar.facts = span.facts;
    bar.dataset.tip = span.dataset.tip;
    const rejected = rejectedOf(facts, choice.finish_reason);
    const most = Math.max(Number($("size").max), 1);
    bar.innerHTML = "<i></i><b></b>";
    bar.children[0].style.height = `${(100 * Math.max(rejected, 0)) / most}%`;
    bar.children[1].style.height = `${(100 * facts.accepted) / most}%`;
    this.node.querySelector(".strip").append(bar);
    const item = document.createElement("li");
    item.textContent = span.dataset.tip;
    this.node.querySelector(".steps").append(item);
    this.clock.textContent = `${Math.round(milliseconds)} ms`;
    this.count();
  }

  // Draw the events `slower` times as late as they came; what is already due is drawn at once.
  async play(events, signal) {
    const began = performance.now();
    let last = 0;
    for await (const [event, milliseconds] of events) {
      const wait = began + milliseconds * this.slower - performance.now();
      if (wait > 0) await pause(wait, signal);
      if (signal.aborted) return { ...this.shown, milliseconds: last };
      last = milliseconds;
      this.draw(event, milliseconds);
    }
    return { ...this.shown, milliseconds: last };
  }
}

// What a text's last group holds past its end was not rejected.
function rejectedOf(facts, finished) {
  return finished ? 0 : Math.max(facts.group_size - facts.accepted, 0);
}

function tipOf(facts, finished) {
  const rejected = rejectedOf(facts, finished);
  const name = text("names")[facts.mode];
  const head = language === "zh" ? `第 ${facts.step + 1} 步 · ${name}` : `${text("step")} ${facts.step + 1} · ${name}`;
  const lines = [head, `${text("proposed")} ${facts.group_size} · ${text("kept")} ${facts.accepted}` +
    (rejected > 0 ? ` · ${text("rejected")} ${rejected}` : "") + (finished ? ` · ${text("end")}` : "")];
  const pieces = facts.pieces || [];
  lines.push(text("confidence") + (language === "zh" ? "：" : ": ") + facts.confidence.map((value, index) =>
    `${pieces[index] ?? ""} ${Math.round(100 * value)}%`).join(", "));
  if (facts.reason) lines.push(facts.reason);
  return lines.join("\n");
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

// Sentences end where data/sentences.py says.
const END = /(?<=[.!?…])["'”“’‘»«)\]]*(?=\s|$)|(?<=[。！？])[”’」』）】]*|(?=\n)/gu;
const SHORT = /(?:^|[\s("“„'.])(?:[\p{L}\d]|\d\d|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Nr|vs|etc|approx|Inc|Ltd|Co|Hr|Fr|Str|bzw|usw|ca|evtl|ggf|inkl|vgl|Abs|Art|Bd|Tel|Gen|Col|Capt|Mio|Mrd)\.$/iu;
const BEFORE_NUMBERS = /(?:^|[^\p{L}\d_])(?:No|pp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Okt|Dez)\.$/iu;

function ends(content, match) {
  const head = content.slice(Math.max(match.index - 16, 0), match.index); // longer than any abbreviation
  const quoted = /["'”“’‘»«)\]]/.test(match[0]);
  const small = /^\s+\p{Ll}/u.test(content.slice(match.index + match[0].length));
  const number = /^\s+\d/.test(content.slice(match.index + match[0].length));
  if (number && BEFORE_NUMBERS.test(head)) return false;
  return content[match.index] === "\n" || !(SHORT.test(head) || (small && (quoted || /(\.\.\.|…)$/.test(head))));
}

// The sentences of a text, each with what stands before it: a blank, or the end of a line.
function sentencesOf(content) {
  const found = [];
  let from = 0;
  const places = [...content.matchAll(END)].filter((match) => ends(content, match))
    .map((match) => match.index + match[0].length);
  for (const to of [...places, content.length]) {
    const part = content.slice(from, to);
    if (!part.trim()) continue;
    found.push([part.trim(), /^\s*\n/.test(part) ? "\n" : " "]);
    from = to;
  }
  return found;
}

// A translation model is trained on single sentences: those of a text are asked for in turn.
async function* ask(body, chat, signal) {
  if (causal()) { yield* stream(body, chat, signal); return; }
  let before = 0;
  let steps = 0;
  for (const [prompt, blank] of sentencesOf(body.prompt)) {
    let last = 0;
    let count = 0;
    for await (const [event, milliseconds] of stream({ ...body, prompt }, chat, signal)) {
      if (event.multistride) {
        if (count === 0 && steps) event.choices[0].text = blank + event.choices[0].text;
        event.multistride.step += steps;
        count += 1;
      }
      last = milliseconds;
      yield [event, before + milliseconds];
    }
    before += last;
    steps += count;
  }
}

// Server-sent events of one request, each with the milliseconds since it was sent.
async function* stream(body, chat, signal) {
  const sent = performance.now();
  const response = await fetch(chat ? "v1/chat/completions" : "v1/completions", {
    method: "POST", signal, headers: headers(), body: JSON.stringify(body),
  });
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    throw new Error(answer?.error?.message || `${response.status} ${response.statusText}`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield [event, performance.now() - sent];
    }
  }
}

function bodyOf(groupSize, chosenMode) {
  const content = $("input").value;
  const temperature = Number($("temperature").value);
  const chat = causal() && $("chat").checked && !$("chat-row").hidden;
  const body = { model: chosen().id, stream: true, stream_granularity: "group", group_size: groupSize, mode: chosenMode };
  if (temperature > 0) Object.assign(body, { temperature, seed: 1 });
  if (causal()) body.max_tokens = Number($("length").value);
  if (chat) body.messages = [{ role: "user", content }];
  else body.prompt = content;
  return [body, chat];
}

// Every race is run one lane after the other, so that the two never share the processor: both
// clocks are those of a machine that does nothing else. They are played back side by side.
async function recorded(lane, body, chat, signal) {
  const events = [];
  let tokens = 0;
  for await (const pair of ask(body, chat, signal)) {
    events.push(pair);
    tokens += pair[0].multistride?.accepted ?? 0;
    lane.node.querySelector(".counts").textContent = text("measuring")(tokens);
  }
  return events;
}

async function run() {
  if (!$("input").value.trim()) { problem(text("empty")); return; }
  problem("");
  show(() => "");
  $("note").hidden = !$("race").checked;
  running?.abort();
  const controller = new AbortController();
  running = controller;
  $("run").disabled = true;
  $("stop").disabled = false;
  nameLanes();
  if (matchMedia("(max-width: 48rem)").matches) $("results").scrollIntoView({ behavior: "smooth" });
  const slower = Number($("speed").value);
  const size = Number($("size").value);
  const lane = new Lane($("lane-groups"), slower);
  const one = new Lane($("lane-one"), slower);
  try {
    const [body, chat] = bodyOf(size, mode());
    if ($("race").checked) {
      const [alone] = bodyOf(1, "fast");
      const first = await recorded(one, alone, chat, controller.signal);
      const second = await recorded(lane, body, chat, controller.signal);
      const [ours, theirs] = await Promise.all([
        lane.play(second, controller.signal), one.play(first, controller.signal)]);
      if (!controller.signal.aborted) {
        show(() => text("verdict")(size, ours.milliseconds, theirs.milliseconds, ours.text === theirs.text));
      }
    } else {
      await lane.play(ask(body, chat, controller.signal), controller.signal);
    }
    if (controller.signal.aborted) show(() => text("stopped"));
  } catch (error) {
    if (controller.signal.aborted) show(() => text("stopped"));
    else problem(error instanceof TypeError ? text("lost") : error.message);
  } finally {
    if (running === controller) {
      running = null;
      $("run").disabled = false;
      $("stop").disabled = true;
    }
  }
}

function showTip(node) {
  const tip = $("tip");
  tip.textContent = node.dataset.tip;
  tip.hidden = false;
  const box = node.getBoundingClientRect();
  const below = box.bottom + 8 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = below ? `${box.bottom + 8}px` : `${Math.max(8, box.top - tip.offsetHeight - 8)}px`;
}

document.addEventListener("mouseover", (event) => {
  const node = event.target.closest?.("[data-tip]");
  if (node) showTip(node); else $("tip").hidden = true;
});
document.addEventListener("focusin", (event) => {
  const node = event.target.closest?.("[data-tip]");
  if (node) showTip(node); else $("tip").hidden = true;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  if (event.key === "Escape") { $("tip").hidden = true; running?.abort(); }
});
$("controls").addEventListener("submit", (event) => { event.preventDefault(); run(); });
$("stop").addEventListener("click", () => running?.abort());
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  translatePage();
});
$("size").addEventListener("input", () => { $("size-value").textContent = $("size").value; nameLanes(); });
$("temperature").addEventListener("input", () => { $("temperature-value").textContent = $("temperature").value; });
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); begin(); });
$("model").addEventListener("change", () => {
  if ($("input").value === example) $("input").value = "";
  showModel();
});
for (const node of document.querySelectorAll("input[name=mode], #race")) node.addEventListener("change", showSizes);

async function begin() {
  translatePage();
  try {
    const answer = await fetch("v1/models", { headers: headers() });
    const open = answer.status !== 401 && !sessionStorage.getItem("key");
    $("key-row").hidden = open;
    $("metrics").hidden = !open;  // a link sends no key
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    models = (await answer.json()).data.map((model) => ({ id: model.id, ...model.multistride }));
    problem("");
    $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
    showModel();
  } catch (error) {
    problem(error instanceof TypeError ? text("lost") : error.message);
  }
}
begin();
