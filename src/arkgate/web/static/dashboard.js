// The dashboard: a token from this tab's storage or from the field, sent as a header to this gateway only.
"use strict";

const PAGE = 20;
const PART = 1000;  // lines of a statement that come at once
const STORED = "arkgate.token";
const at = (id) => document.getElementById(id);
let token = "";
let offset = 0;
let lines = 0;
let watching = null;

async function ask(path, options = {}) {
  const headers = { ...options.headers, Authorization: `Bearer ${token}` };
  const answer = await fetch(path, { ...options, headers, cache: "no-store", referrerPolicy: "no-referrer" });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error?.message ?? body.error ?? String(answer.status));
}

function problem(reason) {
  at("problem").hidden = !reason;
  at("problem").textContent = reason ? at("problem").dataset.sentence.replace("{reason}", reason) : "";
}

async function attempt(work) {
  try {
    problem("");
    await work();
  } catch (error) {
    problem(error.message);
  }
}

async function showBalance() {
  const body = await (await ask("/v1/balance")).json();
  for (const place of document.querySelectorAll("[data-field]")) {
    const value = body[place.dataset.field] ?? place.dataset.none ?? "";
    place.textContent = place.dataset.field === "resets_at" ? new Date(value).toLocaleString() : value;
  }
  at("unpaid").hidden = body.status === "active";
  return body;
}

function cell(row, text, isNumber) {
  const made = row.insertCell();
  made.textContent = text;
  if (isNumber) made.className = "number";
}

async function showLines() {
  const body = await (await ask(`/v1/usage?order=newest&offset=${offset}&limit=${PAGE}`)).json();
  const table = at("lines");
  table.replaceChildren();
  for (const line of body.lines) {
    const row = table.insertRow();
    cell(row, new Date(line.at).toLocaleString());
    cell(row, table.dataset[line.kind]);
    cell(row, line.detail);
    cell(row, line.amount_sats, true);
    cell(row, line.balance_sats, true);
  }
  lines = body.lines.length;
  at("no-lines").hidden = lines > 0 || offset > 0;
  at("newer").hidden = offset === 0;
  at("older").hidden = body.next_offset === null;
  at("csv").hidden = lines === 0;
}

async function show() {
  await showBalance();
  offset = 0;
  await showLines();
  sessionStorage.setItem(STORED, token);
  for (const id of ["account", "statement", "top-up", "try", "forget"]) if (at(id)) at(id).hidden = false;
}

function forget() {
  token = "";
  clearInterval(watching);
  for (const name of Object.keys(sessionStorage)) if (name.startsWith("arkgate.")) sessionStorage.removeItem(name);
  at("token").value = "";
  for (const id of ["account", "statement", "top-up", "try", "forget", "invoice"]) if (at(id)) at(id).hidden = true;
  at("lines").replaceChildren();
  document.querySelectorAll("[data-field]").forEach((place) => { place.textContent = ""; });
  problem("");
}

async function saveCsv() {
  const rows = [];
  for (let from = 0; ; from += PART) {
    const [head, ...more] = (await (await ask(`/v1/usage?format=csv&offset=${from}&limit=${PART}`)).text())
      .trimEnd().split("\n");
    rows.push(...(from ? [] : [head]), ...more);
    if (more.length < PART) break;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "statement.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function topUp() {
  const before = await showBalance();
  const amount = Number(at("amount").value);
  const body = await (await ask("/v1/topups", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ amount_sats: amount }),
  })).json();
  const { lightning_invoice: invoice, bip321 } = body.funding;
  at("invoice-text").textContent = invoice ?? bip321;
  at("invoice-link").href = invoice ? `lightning:${invoice}` : bip321;
  const code = await ask("/v1/qr", { method: "POST", body: at("invoice-link").href });
  const image = new DOMParser().parseFromString(await code.text(), "image/svg+xml");
  at("invoice-qr").replaceChildren(document.adoptNode(image.documentElement));
  at("invoice").hidden = false;
  clearInterval(watching);
  watching = setInterval(() => attempt(async () => {
    const now = await showBalance();
    if (now.balance_sats <= before.balance_sats) return;
    clearInterval(watching);
    at("invoice").hidden = true;
    offset = 0;
    await showLines();
  }), 2000);
}

function purchase() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function tryCall() {
  at("answer").hidden = at("answer-title").hidden = false;
  at("answer").textContent = "";
  const answer = await ask(at("try-form").dataset.path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": purchase() },
    body: JSON.stringify({ prompt: at("question").value, stream: true }),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    const events = (rest + piece.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (!event.startsWith("data:") || data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message ?? chunk.error);
      at("answer").textContent += chunk.choices?.[0]?.delta?.content ?? "";
    }
  }
}

at("open").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  attempt(show);
});
at("forget").addEventListener("click", forget);
at("older").addEventListener("click", () => { offset += PAGE; attempt(showLines); });
at("newer").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); attempt(showLines); });
at("csv").addEventListener("click", () => attempt(saveCsv));
at("top-up-form").addEventListener("submit", (event) => { event.preventDefault(); attempt(topUp); });
at("try-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = event.submitter;
  button.disabled = true;
  attempt(tryCall).finally(async () => {
    button.disabled = false;
    await attempt(async () => { await showBalance(); offset = 0; await showLines(); }).catch(() => {});
  });
});

token = sessionStorage.getItem(STORED) ?? "";
if (token) attempt(show);
