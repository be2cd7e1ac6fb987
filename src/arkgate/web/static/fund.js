// The fund page: says how many calls an amount buys, and lets the free entry and the cards exclude each other.
"use strict";

const form = document.querySelector("form.fund");
const other = document.getElementById("other");
const buys = document.getElementById("buys");
const cards = [...form.querySelectorAll("[name=amount]")];

function say() {
  const price = Number(form.dataset.price);
  const amount = Number(other.value.replace(/\D/g, ""));
  buys.textContent = price && amount >= price
    ? form.dataset.calls.replace("{number}", Math.floor(amount / price)) : "";
}

other.addEventListener("input", () => {
  if (other.value) cards.forEach((card) => { card.checked = false; });
  else cards[0].checked = true;
  say();
});
cards.forEach((card) => card.addEventListener("change", () => { other.value = ""; say(); }));
say();
