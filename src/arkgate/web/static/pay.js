// The pages that wait for a payment. The server writes every sentence: when something has changed, the
// parts of this page that may differ are fetched anew. A token lives in this tab's storage only.
"use strict";

const LOOK_MS = 3000;
const LAST_MINUTES_MS = 300000;
let payment = document.getElementById("payment");
let events = null;
let looking = null;

const key = (session) => `arkgate.token.${session}`;

function keepToken() {
  const box = document.getElementById("token-box");
  if (!box) return;
  const shown = document.getElementById("token");
  const session = box.dataset.session;
  if (shown.textContent) {
    sessionStorage.setItem(key(session), shown.textContent);
    // Coming back here must not ask for another token.
    history.replaceState(null, "", `/fund/${session}`);
  }
  const token = sessionStorage.getItem(key(session));
  if (!token) return;
  shown.textContent = token;
  box.hidden = false;
  document.getElementById("token-gone")?.remove();
  const line = document.getElementById("try-line");
  line.textContent = line.textContent.replace("ak_…", token);
  const download = document.getElementById("download");
  download.href = URL.createObjectURL(new Blob([token + "\n"], { type: "text/plain" }));
  download.hidden = false;
  sessionStorage.setItem("arkgate.token", token);  // for the dashboard of this tab
}

async function renew() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("#payment, [data-live]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh) part.remove();
    else if (part.id !== "payment") part.replaceWith(document.adoptNode(fresh));
  }
  // What a screen reader listens to stays, and its words change.
  const state = document.getElementById("state");
  const fresh = page.getElementById("payment");
  payment.dataset.status = fresh.dataset.status;
  const renewed = page.getElementById("state");
  state.className = renewed.className;
  state.textContent = renewed.textContent.trim();
  for (const child of [...payment.children]) if (child !== state && child.id !== "offline") child.remove();
  for (const child of [...fresh.children]) {
    if (child.id === "state") continue;
    if (child.id !== "offline") payment.append(document.adoptNode(child));
  }
  document.querySelectorAll("[data-copy]").forEach((button) => { button.hidden = false; });
  keepToken();
}

async function changed(body) {
  online(true);
  if (body.status === "active") stop();
  if (body.status !== payment.dataset.status || body.waiting_sats) await renew().catch(() => online(false));
}

function online(yes) {
  document.getElementById("offline").hidden = yes;
}

function stop() {
  events?.close();
  clearInterval(looking);
  events = looking = null;
}

function poll() {
  looking ??= setInterval(async () => {
    try {
      const answer = await fetch(payment.dataset.look, { cache: "no-store" });
      if (answer.ok) await changed(await answer.json());
    } catch {
      online(false);
    }
  }, LOOK_MS);
}

function watch() {
  if (payment.dataset.status === "active" || payment.dataset.status === "cancelled") return;
  events = new EventSource(payment.dataset.events);
  for (const name of ["awaiting_payment", "awaiting_finality", "paid", "expired", "cancelled"]) {
    events.addEventListener(name, (event) => changed(JSON.parse(event.data)));
  }
  events.addEventListener("open", () => { clearInterval(looking); looking = null; online(true); });
  events.addEventListener("error", poll);
}

function count() {
  const left = document.getElementById("left");
  if (!left) return;
  const milliseconds = Number(payment.dataset.expires) - Date.now();
  if (milliseconds <= 0) { left.textContent = ""; return; }
  const seconds = Math.floor(milliseconds / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const exact = milliseconds < LAST_MINUTES_MS ? ` ${seconds % 60} s` : "";
  left.textContent = `${left.dataset.label} ${hours ? hours + " h " : ""}${minutes} min${exact}`;
}

function offerWallet() {
  const button = document.getElementById("browser-wallet");
  const invoice = [...document.querySelectorAll(".codes code")].find((one) => /^ln/.test(one.textContent));
  if (!window.webln || !button || !invoice) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await window.webln.enable();
      await window.webln.sendPayment(invoice.textContent);
    } catch { /* the wallet has said why */ }
  });
}

keepToken();
watch();
offerWallet();
count();
setInterval(count, 1000);
