// What pages do besides showing themselves: parts that change are fetched again while somebody looks, and what cannot be taken back
// is asked about. Without it every page and form works.
"use strict";

const EVERY_MS = 2000;

// Fetches a part anew, unless somebody is at a control in it.
async function refresh(part) {
  if (document.hidden || part.contains(document.activeElement)) return;
  const answer = await fetch(part.dataset.refresh, { headers: { "X-Enfold-Part": "1" }, credentials: "same-origin" });
  if (answer.status === 401) {
    location.reload();
    return;
  }
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const text = await answer.text();
  if (part.dataset.shown === text) return;
  part.dataset.shown = text;
  part.innerHTML = text;
}

function keepFresh(part) {
  const again = async () => {
    try {
      await refresh(part);
      part.classList.remove("stale");
    } catch {
      // What is shown stays, and looks as old as it is.
      part.classList.add("stale");
    }
    setTimeout(again, EVERY_MS);
  };
  setTimeout(again, EVERY_MS);
}

document.querySelectorAll("[data-refresh]").forEach(keepFresh);
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
