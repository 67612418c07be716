// Keeps the page up to date: fetches it anew after each event of /live, and changes only the parts
// that differ. So the reader keeps open details, focus, selection and place.
"use strict";
(() => {
  // A page that cannot have its events is fetched this often, in milliseconds.
  const PAUSE = 10_000;
  const patience = Number(document.body.dataset.patience) * 1_000;
  const stale = document.getElementById("stale");
  let updated = Date.now();
  let source = null;
  let underWay = false;
  let again = false;

  const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null);
  const alike = (one, other) => one.nodeName === other.nodeName && key(one) === key(other);
  // The reader opens and closes details, and nothing else does.
  const isReaders = (element, name) => name === "open" && element.localName === "details";

  function update(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !isReaders(old, name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && !isReaders(old, name)) old.setAttribute(name, value);
    }
    updateChildren(old, fresh);
  }

  // An element with a key is found wherever it stands, any other by its place.
  function updateChildren(old, fresh) {
    const byKey = new Map();
    for (const child of old.children) if (key(child)) byKey.set(key(child), child);
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const same = key(child) ? byKey.get(key(child)) : place;
      if (!same || !alike(same, child)) {
        old.insertBefore(document.importNode(child, true), place);
        continue;
      }
      if (same === place) place = place.nextSibling;
      else old.insertBefore(same, place);
      update(same, child);
    }
    while (place) {
      const gone = place;
      place = place.nextSibling;
      gone.remove();
    }
  }

  async function refresh() {
    if (document.hidden) return;
    if (underWay) {
      again = true;
      return;
    }
    underWay = true;
    try {
      const answer = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(PAUSE) });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of ["header", "main"]) {
        update(document.querySelector(part), fresh.querySelector(part));
      }
      document.title = fresh.title;
      updated = Date.now();
      stale.hidden = true;
    } catch {
      const asOf = document.getElementById("as-of");
      stale.textContent = "No connection. Not updated since " + (asOf ? asOf.textContent : "the start") + ".";
      stale.hidden = false;
    }
    underWay = false;
    if (again) {
      again = false;
      refresh();
    }
  }

  function listen() {
    if (source || document.hidden) return;
    source = new EventSource("live");
    source.addEventListener("update", refresh);
    source.addEventListener("error", () => {
      refresh();
      // The browser connects again by itself, but not after a refusal.
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(listen, PAUSE);
      }
    });
  }

  // A hidden page needs no events.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) {
      source.close();
      source = null;
    }
    refresh();
    listen();
  });
  setInterval(() => {
    if (Date.now() - updated > patience) refresh();
  }, 5_000);

  // Opens the finding that the address names.
  function reveal() {
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      return;
    }
    const target = document.getElementById(id);
    for (let it = target; it; it = it.parentElement) if (it.localName === "details") it.open = true;
    if (target) target.scrollIntoView();
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    let done = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      done = true;
    } catch {
      // Without TLS there is a clipboard only on loopback; elsewhere the selection is copied.
      getSelection().selectAllChildren(code);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "copied" : "select and copy";
    setTimeout(() => (button.textContent = "copy"), 1_500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".copy");
    if (button) copy(button);
    // The same link again changes no address.
    const link = event.target.closest("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) reveal();
  });
  addEventListener("hashchange", reveal);

  document.documentElement.classList.add("js");
  reveal();
  listen();
})();
