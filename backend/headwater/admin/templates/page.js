"use strict";
// What the page does beside the server's rendering: it completes names while they are typed, explains
// them, reads the plot, and asks for pieces anew when something changes. Names become text nodes only;
// the pieces of HTML come from this server's templates, which have escaped what is in them.
(() => {
  const TYPED = 120, SETTLE = 300, POLL = 5000, RETRY = 5000; // milliseconds
  const at = (id) => document.getElementById(id);
  const input = at("name"), type = at("type"), list = at("names"), explanation = at("explanation");

  const visible = (text) =>
    String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => "\\x" + char.codePointAt(0).toString(16).padStart(2, "0"));
  const make = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = visible(text);
    return made;
  };
  const later = (wait, work) => {
    let timer = 0;
    return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), wait); };
  };
  /** As `later`, but what goes on without a pause is done again and again, too. */
  const paced = (wait, work) => {
    let timer = 0;
    return () => { timer = timer || setTimeout(() => { timer = 0; work(); }, wait); };
  };
  /** One request at a time of its sort: a newer one takes the place of the one before. */
  const asker = () => {
    let abort = new AbortController();
    return async (path, parameters) => {
      abort.abort();
      abort = new AbortController();
      const reply = await fetch(`${path}?${new URLSearchParams(parameters)}`,
        { signal: abort.signal, headers: { Accept: path === "/" ? "text/html" : "application/json" } });
      const body = await reply.text();
      return { status: reply.status, body };
    };
  };
  const pieces = (html) => new DOMParser().parseFromString(html, "text/html").body.childNodes;

  // The search field

  const names = { ask: asker(), found: [], chosen: -1, open: false };
  const explained = { ask: asker(), name: "", type: "A", kept: true };

  function close() {
    list.hidden = true;
    names.chosen = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function show(typed) {
    list.replaceChildren(...names.found.map((one, index) => {
      const line = make("li");
      line.id = `name-${index}`;
      line.setAttribute("role", "option");
      const name = make("span", "name");
      if (one.name.startsWith(typed)) name.append(make("b", "", typed), visible(one.name.slice(typed.length)));
      else name.append(visible(one.name));
      const words = !one.answers ? `${one.kind}, no records` :
        one.addresses ? `${one.kind}, ${one.addresses} ${one.addresses === 1 ? "address" : "addresses"}` : one.kind;
      line.append(name, make("span", "kind", words));
      line.addEventListener("mousedown", (event) => { event.preventDefault(); choose(one.name); });
      return line;
    }));
    list.hidden = !names.found.length || document.activeElement !== input ||
      (names.found.length === 1 && names.found[0].name === typed);
    input.setAttribute("aria-expanded", String(!list.hidden));
    names.chosen = -1;
  }

  function mark(step) {
    const lines = [...list.children];
    if (list.hidden || !lines.length) return;
    names.chosen = (names.chosen + step + lines.length + (names.chosen < 0 && step < 0 ? 1 : 0)) % lines.length;
    lines.forEach((line, index) => line.setAttribute("aria-selected", String(index === names.chosen)));
    lines[names.chosen].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", lines[names.chosen].id);
  }

  function choose(name) {
    input.value = name;
    close();
    explain(name, true);
  }

  const typing = later(TYPED, async () => {
    const typed = input.value.trim().toLowerCase();
    if (!typed) {
      names.found = [];
      show("");
      explanation.replaceChildren();
      seen("", false);
      return;
    }
    try {
      const reply = await names.ask("/names", { prefix: typed, limit: 12 });
      if (reply.status !== 200 || input.value.trim().toLowerCase() !== typed) return;
      const said = JSON.parse(reply.body);
      names.found = said.names;
      show(typed);
      // What leaves no doubt is explained at once; so is what no name begins with.
      const meant = said.exact || (said.names.length === 1 && !said.more ? said.names[0].name : "");
      if (meant) explain(meant, false);
      else if (!said.names.length) explain(typed, false);
      else explanation.classList.add("pending");
    } catch (error) {
      if (error.name !== "AbortError") lost(true);
    }
  });

  /** Show a name's explanation; `shown`: it is shown already, and stays where there is no newer one. */
  async function explain(name, kept, shown = false) {
    const asked = type.value;
    explanation.classList.add("pending");
    try {
      const reply = await explained.ask("/", { part: "explanation", name, type: asked });
      lost(false);
      const found = reply.status === 200 && pieces(reply.body);
      if (shown && !(found && [...found].some((piece) => piece.matches?.(".explained")))) {
        explanation.classList.remove("pending");
        setTimeout(again, RETRY); // too many ask at once
        return;
      }
      if (found) explanation.replaceChildren(...found);
      else explanation.replaceChildren(make("p", "card problem", reply.body));
      explanation.classList.remove("pending");
      finish(explanation);
      const whole = explanation.querySelector(".explained");
      seen(whole ? whole.dataset.name : name, kept);
    } catch (error) {
      if (error.name !== "AbortError") lost(true);
    }
  }

  /** The name that is shown, in the address and in the title. */
  function seen(name, kept) {
    const other = name !== explained.name || type.value !== explained.type;
    explained.name = name;
    explained.type = type.value;
    const url = name ? `/?${new URLSearchParams({ name, type: type.value })}` : "/";
    // The way back leads to names that were chosen, not to each that was met while typing.
    if (url !== location.pathname + location.search) window.history[explained.kept ? "pushState" : "replaceState"](null, "", url);
    explained.kept = kept || (explained.kept && !other);
    document.title = name ? `${name} ${type.value} · headwater` : "headwater";
  }

  /** What the server's HTML cannot do: copy a command. */
  function finish(place) {
    if (!navigator.clipboard) return;
    for (const command of place.querySelectorAll(".command")) {
      if (command.querySelector(".copy")) continue;
      const copy = make("button", "copy", "Copy");
      copy.type = "button";
      copy.addEventListener("click", async () => {
        await navigator.clipboard.writeText(command.querySelector("code").textContent);
        copy.textContent = "Copied";
        setTimeout(() => { copy.textContent = "Copy"; }, 1500);
      });
      command.append(copy);
    }
  }

  function search() {
    input.setAttribute("role", "combobox");
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", "names");
    input.setAttribute("aria-expanded", "false");
    input.addEventListener("input", typing);
    input.addEventListener("focus", () => { if (input.value && names.found.length) show(input.value.trim().toLowerCase()); });
    input.addEventListener("blur", close);
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        if (list.hidden) show(input.value.trim().toLowerCase());
        mark(event.key === "ArrowDown" ? 1 : -1);
      } else if (event.key === "Escape" && !list.hidden) {
        event.preventDefault();
        close();
      } else if (event.key === "Tab" && !event.shiftKey && !list.hidden && names.chosen >= 0) {
        event.preventDefault();
        input.value = names.found[names.chosen].name;
        typing();
      }
    });
    type.addEventListener("change", () => { if (input.value.trim()) explain(explained.name || input.value.trim(), true); });
    input.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (names.chosen >= 0) choose(names.found[names.chosen].name);
      else if (input.value.trim()) { close(); explain(input.value.trim(), true); }
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && document.activeElement === document.body) { event.preventDefault(); input.select(); }
    });
    window.addEventListener("popstate", () => location.reload());
    const found = explanation.querySelector(".explained");
    if (found) { explained.name = found.dataset.name; explained.type = type.value; }
    finish(explanation);
    if (!input.value && matchMedia("(hover: hover)").matches) input.focus();
  }

  // Changes, as they happen

  const changes = { place: at("changes"), ask: asker(), live: false, source: null };

  /** The latest changes anew; those that were not there before are marked. */
  async function look() {
    const before = changes.place.querySelector("[data-newest]");
    try {
      const reply = await changes.ask("/", { part: "changes" });
      if (reply.status !== 200) return;
      changes.place.replaceChildren(...pieces(reply.body));
      shine();
      if (!before) return;
      for (const line of changes.place.querySelectorAll("[data-seq]")) {
        if (Number(line.dataset.seq) > Number(before.dataset.newest)) line.classList.add("new");
      }
    } catch (error) {
      if (error.name !== "AbortError") lost(true);
    }
  }

  function shine() {
    const heading = changes.place.querySelector("h2");
    if (!heading) return;
    const badge = heading.querySelector(".live") || heading.appendChild(make("span", "live"));
    badge.classList.toggle("off", !changes.live);
    badge.textContent = changes.live ? "live" : "not live";
  }

  const again = paced(SETTLE, () => { if (explained.name && !document.hidden) explain(explained.name, false, true); });
  const moved = paced(SETTLE, () => { if (changes.place && !document.hidden) look(); });

  /** Hear of changes. A page that nobody sees does not: a browser has few connections to a host. */
  function listen() {
    if (changes.source || document.hidden || !changes.place || !changes.place.querySelector("[data-newest]")) return;
    const source = changes.source = new EventSource("/events");
    let before = false;
    source.addEventListener("open", () => {
      changes.live = true;
      shine();
      if (before) { moved(); again(); } // what came while there was no connection
      before = true;
    });
    source.addEventListener("change", (event) => {
      const owner = JSON.parse(event.data).owner;
      moved();
      if (!owner || explained.name.split(".").includes(owner.namespace)) again();
    });
    source.addEventListener("error", () => {
      changes.live = false;
      shine();
      if (source.readyState === EventSource.CLOSED) { unlisten(); setTimeout(listen, RETRY); }
    });
  }

  function unlisten() {
    if (changes.source) changes.source.close();
    changes.source = null;
    changes.live = false;
  }

  // The instance

  const status = { place: at("status"), ask: asker() };

  function lost(is) {
    const old = document.querySelector(".lost");
    if (!is && old) old.remove();
    if (is && !old) {
      const told = make("p", "lost", "Headwater does not answer. Trying again.");
      told.setAttribute("role", "status");
      document.querySelector("main").append(told);
    }
  }

  async function poll() {
    if (document.hidden) return;
    const before = status.place.querySelector(".state").dataset.changes;
    try {
      const reply = await status.ask("/", { part: "status" });
      lost(false);
      if (reply.status !== 200) return;
      const plot = status.place.querySelector(".plot .at");
      if (plot && !plot.hidden) return; // somebody reads it
      status.place.replaceChildren(...pieces(reply.body));
      const state = status.place.querySelector(".state"), pill = document.querySelector(".pill");
      pill.className = state.className.replace("state", "pill");
      pill.textContent = state.querySelector(".verdict").textContent;
      if (!changes.live && status.place.querySelector(".state").dataset.changes !== before) again();
    } catch (error) {
      if (error.name !== "AbortError") lost(true);
    }
  }

  function read(event) {
    const plot = event.target.closest && event.target.closest(".plot");
    for (const other of document.querySelectorAll(".plot .at")) if (!plot || !plot.contains(other)) other.hidden = true;
    if (!plot) return;
    const series = JSON.parse(plot.dataset.series), step = Number(plot.dataset.step), told = plot.querySelector(".at");
    const box = plot.querySelector("svg").getBoundingClientRect(), steps = plot.querySelector("svg").viewBox.baseVal.width / 4;
    const back = steps - 1 - Math.min(steps - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * steps)));
    const words = Object.entries(series).map(([rcode, counts]) => [rcode, counts[counts.length - 1 - back]])
      .filter(([, count]) => count).map(([rcode, count]) => `${rcode} ${(count / step).toFixed(1)}/s`);
    const moment = new Date(Date.now() - back * step * 1000).toLocaleTimeString([], { hour12: false });
    told.textContent = `${moment}   ${words.join("   ") || "no queries"}`;
    told.classList.toggle("left", (event.clientX - box.left) > box.width / 2);
    told.hidden = false;
  }

  if (input) search();
  document.addEventListener("pointermove", read);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { unlisten(); return; }
    poll();
    moved();
    again();
    listen();
  });
  window.addEventListener("pagehide", unlisten);
  setInterval(poll, POLL);
  listen();
})();
