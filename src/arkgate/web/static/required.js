// The page of a 402: waits for its invoice to be paid, takes the token that its claim stands for, and opens
// what was asked for with it.
"use strict";

const PAUSE_MS = 200;  // the gateway itself waits two seconds for the payment
const LOST_MS = 2000;
const required = document.getElementById("required");
const state = document.getElementById("state");
const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

async function token() {
  const { macaroon, claim, expires } = required.dataset;
  for (;;) {
    try {
      const answer = await fetch("/v1/claims", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ macaroon, claim }),
      });
      if (answer.ok) return (await answer.json()).token;
      await pause(PAUSE_MS);
    } catch {  // no connection
      await pause(LOST_MS);
    }
    if (Date.now() > Number(expires)) state.textContent = required.dataset.expired;
  }
}

async function buy() {
  const bought = await token();
  document.getElementById("invoice").hidden = true;
  state.textContent = required.dataset.opening;
  sessionStorage.setItem("arkgate.token", bought);
  document.getElementById("token").textContent = bought;
  document.getElementById("paid").hidden = false;
  const answer = await fetch(required.dataset.target, {
    headers: { Authorization: `Bearer ${bought}` }, cache: "no-store", referrerPolicy: "no-referrer",
  });
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    state.textContent = required.dataset.failed.replace("{reason}", body.error?.message ?? body.error ?? answer.status);
    return;
  }
  const resource = URL.createObjectURL(await answer.blob());
  document.getElementById("resource").href = resource;
  location.assign(resource);
}

buy();
